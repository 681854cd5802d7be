"""The table of data sets, and how pairs of images are found on disk.

A data set is declared once, as a :class:`DatasetSpec`; everything else (fusing, evaluating, the tasks, the
report) reads the declaration. Folder names are matched without regard to case, because every public copy
spells them differently. Nothing here opens an image or needs torch.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emma_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings that are taken for images, compared in lower case."""

SAMPLE_MARK = ".sample-data.json"
"""File at the root of a rendered stand-in; it keeps samples from being taken for the real data set."""

SAMPLE_SUFFIX = "-sample"

Side = Literal["infrared", "visible"]


@dataclass(frozen=True)
class Split:
    """One part of a data set: where its two folders may be, and which side carries the colour.

    Attributes:
        name: as in the paths of fused images; ``all`` where the data set has no parts.
        folders: candidates (infrared, visible), relative to the root; the first pair that exists is used.
        colour_from: the side whose Cb and Cr the fused image takes.
    """

    name: str
    folders: tuple[tuple[str, str], ...]
    colour_from: Side = "visible"


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set.

    Attributes:
        name: as on the command line (case does not matter there).
        title: one line for people.
        splits: its parts, in the order in which tables show them.
        infrared_label: what tables call the side that stands where infrared stands.
        visible_label: likewise for visible.
        licence: terms of use, as far as its authors state them.
        source: where to get it.
        citation: the paper that introduced it.
        sample: whether ``sample-data`` renders a stand-in.
        conditions: light that ids tell by their end: its name, and that end.
    """

    name: str
    title: str
    splits: tuple[Split, ...]
    licence: str
    source: str
    citation: str
    infrared_label: str = "IR"
    visible_label: str = "VI"
    sample: bool = False
    conditions: tuple[tuple[str, str], ...] = ()


_ANY_PAIR = (("Ir", "Vis"), ("ir", "vi"), ("infrared", "visible"))

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            "MSRS",
            "Multi-Spectral Road Scenarios: 1,083 + 361 pairs, 640 x 480, nine segmentation classes",
            (
                Split("train", (("train/ir", "train/vi"),)),
                Split("test", (("test/ir", "test/vi"),)),
            ),
            licence="none stated; ask its authors before anything but research",
            source="https://github.com/Linfeng-Tang/MSRS",
            citation="Tang et al., PIAFusion, Information Fusion 83-84, 2022",
            sample=True,
            conditions=(("day", "D"), ("night", "N")),
        ),
        DatasetSpec(
            "M3FD",
            "Multi-scenario multi-modality detection: 4,200 pairs, mostly 1024 x 768, six object classes",
            (Split("all", (*_ANY_PAIR, ("images/ir", "images/vi"), ("images/ir", "images/vis"))),),
            licence="none stated; ask its authors before anything but research",
            source="https://github.com/JinyuanLiu-CV/TarDAL",
            citation="Liu et al., TarDAL, CVPR 2022",
            sample=True,
        ),
        DatasetSpec(
            "RoadScene",
            "221 aligned road scenes out of FLIR videos, about 500 x 320, all sizes differ",
            (
                Split(
                    "all",
                    (*_ANY_PAIR, ("cropinfrared", "crop_LR_visible"), ("cropinfrared", "crop_HR_visible")),
                ),
            ),
            licence="none stated; ask its authors before anything but research",
            source="https://github.com/hanna-xu/RoadScene",
            citation="Xu et al., FusionDN, AAAI 2020",
        ),
        DatasetSpec(
            "TNO",
            "Military and surveillance scenes at night; the 25 aligned pairs that fusion papers use",
            (Split("all", (*_ANY_PAIR, ("Test_ir", "Test_vi"))),),
            licence="see its figshare page",
            source="https://figshare.com/articles/dataset/TNO_Image_Fusion_Dataset/1008029",
            citation="Toet, TNO Image Fusion Dataset, 2014",
        ),
        DatasetSpec(
            "Harvard",
            "Whole Brain Atlas: slices of one head, MRI with CT, PET or SPECT, 256 x 256",
            (
                Split("MRI-CT", (("MRI-CT/CT", "MRI-CT/MRI"),)),
                Split("MRI-PET", (("MRI-PET/PET", "MRI-PET/MRI"),), colour_from="infrared"),
                Split("MRI-SPECT", (("MRI-SPECT/SPECT", "MRI-SPECT/MRI"),), colour_from="infrared"),
            ),
            licence="copyright of its authors; see the site",
            source="https://www.med.harvard.edu/aanlib/",
            citation="Johnson and Becker, The Whole Brain Atlas",
            infrared_label="other",
            visible_label="MRI",
            sample=True,
        ),
    )
}


@dataclass(frozen=True)
class Pair:
    """Two aligned images of one scene.

    Attributes:
        split: the part of the data set it belongs to.
        id: the stem that both file names share; unique within the split.
        infrared: file of the infrared (or CT, PET, SPECT) image.
        visible: file of the visible (or MRI) image.
        colour_from: the side whose Cb and Cr the fused image takes.
    """

    split: str
    id: str
    infrared: Path
    visible: Path
    colour_from: Side = "visible"

    @property
    def key(self) -> str:
        """``split/id``, unique within the data set."""
        return join_key(self.split, self.id)


@dataclass(frozen=True)
class Fault:
    """Something of a data set that cannot be used, with its reason; the rest is used."""

    split: str
    id: str
    reason: str

    @property
    def key(self) -> str:
        """``split/id``."""
        return join_key(self.split, self.id)

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@dataclass(frozen=True)
class PairSet:
    """The pairs of a data set (or of a part of it) and what was found unusable.

    Attributes:
        dataset: its name.
        root: the folder it was found in.
        label: which part this is: a split, the stem of a list of ids, or ``all``.
        pairs: in the order of the declaration, then by id.
        faults: what cannot be used.
        spec: the declaration.
    """

    dataset: str
    root: Path
    label: str
    pairs: tuple[Pair, ...]
    spec: DatasetSpec
    faults: tuple[Fault, ...] = field(default=())

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted ``split/id`` keys: equal hashes mean the same images were asked for."""
        return split_hash(pair.key for pair in self.pairs)

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits that its pairs come from, sorted."""
        return tuple(sorted({pair.split for pair in self.pairs}))

    def sources_hash(self) -> str:
        """SHA-256 over the content of all source files: equal hashes mean the same pictures, not just the same ids.

        Raises:
            OSError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for pair in self.pairs:
            for file in (pair.infrared, pair.visible):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def first(self, limit: int | None) -> PairSet:
        """Keep the first so many pairs, or all; what is unusable stays named."""
        if limit is None or limit >= len(self.pairs):
            return self
        return replace(self, label=f"{self.label}-first-{limit}", pairs=self.pairs[:limit])


def join_key(split: str, identifier: str) -> str:
    """Join a split and an id to the key of a pair; a nameless split adds nothing."""
    return f"{split}/{identifier}" if split else identifier


def is_plain_name(name: str) -> bool:
    """Tell whether a name can stand in a path and in a line of text: no folder, no control character, no way out."""
    if name in {"", ".", ".."} or set(name) & set("/\\") or any(unicodedata.category(sign) == "Cc" for sign in name):
        return False
    return name.encode("utf-8", "replace").decode() == name  # names that are no text come with surrogates


def split_hash(keys: Iterable[str]) -> str:
    """Return the SHA-256 of a set of ``split/id`` keys, one a line, sorted."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def dataset_spec(name: str) -> DatasetSpec:
    """Look a data set up by name, without regard to case.

    Raises:
        UsageError: no such data set; the message lists those that are known.
    """
    for known, spec in DATASETS.items():
        if known.lower() == name.lower().removesuffix(SAMPLE_SUFFIX):
            return spec
    raise UsageError(
        f"Unknown data set {name!r}; known: {', '.join(DATASETS)}. For your own folders add: --ir DIR --vis DIR"
    )


def declared(name: str) -> DatasetSpec | None:
    """Return what is known of a data set by the name that paths and results carry, or None."""
    spec = DATASETS.get(name.removesuffix(SAMPLE_SUFFIX))
    return _sample_of(spec) if spec and name.endswith(SAMPLE_SUFFIX) else spec


def _sample_of(spec: DatasetSpec) -> DatasetSpec:
    """Name a rendered stand-in apart from the data set whose layout it has."""
    return replace(spec, name=spec.name + SAMPLE_SUFFIX, title=f"Rendered sample scenes in the layout of {spec.name}")


def folder_spec(
    name: str, infrared: Path, visible: Path, *, split: str = "all", colour_from: Side = "visible"
) -> DatasetSpec:
    """Declare any two folders of equally named images as a data set with one split.

    Args:
        name: of your own; those of the table are taken, so that nothing is mistaken for the real data set.
        infrared: folder.
        visible: folder.
        split: name of its only part.
        colour_from: the side whose Cb and Cr the fused images take.

    Raises:
        UsageError: the name is taken, or could not stand in a path.
    """
    if not is_plain_name(name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a data set; expected letters, digits, '-' or '_'")
    if name.lower().removesuffix(SAMPLE_SUFFIX) in {known.lower() for known in DATASETS}:
        raise UsageError(f"{name} is a known data set: give --root DIR, or call your own folders by another name")
    folders = (str(infrared.resolve()), str(visible.resolve()))
    parts = (Split(split, (folders,), colour_from),)
    return DatasetSpec(name, f"{infrared} with {visible}", parts, "yours", "yours", "-")


def find_pairs(spec: DatasetSpec, root: Path, *, split: str | None = None, split_file: Path | None = None) -> PairSet:
    """Find the pairs of a data set.

    Args:
        spec: what to look for, from :func:`dataset_spec` or :func:`folder_spec`.
        root: the folder that holds it.
        split: only this part; by default all parts that are there.
        split_file: only the ids that this text file lists, one a line (``id`` or ``split/id``).

    Returns:
        The pairs and the faults: missing mates, two files with one stem, folders that cannot be read.

    Raises:
        DataError: no pair of folders was found, or a listed id is nowhere.
        UsageError: the data set has no such split.
    """
    if (root / SAMPLE_MARK).exists():
        spec = _sample_of(spec)
    found = [(part, folders) for part in _chosen(spec, split) if (folders := _folders(root, part))]
    if not found:
        raise DataError(_nothing_found(spec, root, split))
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for part, (infrared, visible) in found:
        new_pairs, new_faults = _match(part, infrared, visible)
        pairs += new_pairs
        faults += new_faults
    label = found[0][0].name if split else "all"
    everything = PairSet(spec.name, root, label, tuple(pairs), spec, tuple(faults))
    chosen = _only_listed(everything, split_file) if split_file else everything
    if not chosen.pairs and not chosen.faults:
        raise DataError(f"{spec.name}: the folders under {root} hold no images ({_endings()})")
    return chosen


def read_split_file(path: Path) -> list[str]:
    """Read a list of ids, one a line; blank lines and lines that start with ``#`` are left out.

    Raises:
        DataError: the file is missing, is not text, or lists nothing or an id twice.
    """
    try:
        lines = [_without_suffix(line.strip()) for line in path.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a list of ids, one a line") from None
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read as text; expected a list of ids, one a line") from None
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise DataError(f"{path}: lists no id; expected one a line")
    twice = [listed for listed, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: lists {twice[0]!r} twice")
    return ids


def _without_suffix(name: str) -> str:
    """Take the ending of an image file off a listed name."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


def _chosen(spec: DatasetSpec, split: str | None) -> tuple[Split, ...]:
    if split is None:
        return spec.splits
    chosen = tuple(part for part in spec.splits if part.name.lower() == split.lower())
    if not chosen:
        known = ", ".join(part.name for part in spec.splits)
        raise UsageError(f"{spec.name} has no split {split!r}; it has: {known}. For a list of ids: --split-file")
    return chosen


def _folders(root: Path, part: Split) -> tuple[Path, Path] | None:
    """Return the first candidate pair of folders that exists."""
    candidates = [(_resolve(root, infrared), _resolve(root, visible)) for infrared, visible in part.folders]
    for infrared, visible in candidates:
        if infrared and visible:
            return infrared, visible
    return None


def _resolve(root: Path, relative: str) -> Path | None:
    """Find a folder below root, matching each name exactly if possible and else without regard to case."""
    if Path(relative).is_absolute():
        return Path(relative) if Path(relative).is_dir() else None
    place = root
    for name in Path(relative).parts:
        if (place / name).is_dir():
            place = place / name
            continue
        try:
            alike = sorted(entry for entry in place.iterdir() if entry.name.lower() == name.lower())
        except OSError:
            return None
        if not alike or not alike[0].is_dir():
            return None
        place = alike[0]
    return place


def _match(part: Split, infrared: Path, visible: Path) -> tuple[list[Pair], list[Fault]]:
    """Pair the images of two folders by stem."""
    try:
        infrared_files, visible_files = _images(infrared), _images(visible)
    except OSError as error:
        return [], [Fault(part.name, "*", f"{error.filename}: cannot be read ({error.strerror})")]
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for stem in sorted(infrared_files.keys() | visible_files.keys()):
        sides = (infrared_files.get(stem, []), visible_files.get(stem, []))
        reason = _unusable(sides, (infrared, visible))
        if reason:
            name = (sides[0] or sides[1])[0].stem.encode("utf-8", "backslashreplace").decode()
            faults.append(Fault(part.name, name, reason))
        else:
            first, second = sides[0][0], sides[1][0]
            pairs.append(Pair(part.name, first.stem, first, second, part.colour_from))
    return sorted(pairs, key=lambda pair: pair.id), faults


def _images(folder: Path) -> dict[str, list[Path]]:
    """Group the image files of a folder by stem; stems that are one name on some disks would collide there."""
    groups: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
            groups.setdefault(_on_any_disk(entry.stem), []).append(entry)
    return groups


def _on_any_disk(name: str) -> str:
    """Spell a name as a disk compares it that knows neither case nor the two forms of accents in Unicode."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _unusable(sides: tuple[Sequence[Path], Sequence[Path]], folders: tuple[Path, Path]) -> str | None:
    for files, folder in zip(sides, folders, strict=True):
        if len(files) > 1:
            return f"two files with one stem in {folder}: {', '.join(file.name for file in files)}"
    for files, folder in zip(sides, folders, strict=True):
        if not files:
            return f"its mate is missing in {folder}"
    for files, folder in zip(sides, folders, strict=True):
        if not is_plain_name(files[0].stem):
            return f"its name in {folder} cannot be used; expected text without slash, backslash or control characters"
        if not files[0].is_file():
            return f"not a file: {files[0]}"
    return None


def _only_listed(everything: PairSet, split_file: Path) -> PairSet:
    """Keep the pairs and faults whose ids a file lists."""
    listed = read_split_file(split_file)
    items: list[Pair | Fault] = [*everything.pairs, *everything.faults]
    known = {name for item in items for name in (item.id, item.key)}
    refuse_ambiguous(listed, everything.pairs, split_file)
    lost = [name for name in listed if name not in known]
    if lost:
        raise DataError(
            f"{split_file}: {len(lost)} of {len(listed)} ids are not in {everything.dataset} "
            f"under {everything.root}, first {lost[0]!r}"
        )
    wanted = set(listed)
    return replace(
        everything,
        # The hash keeps lists of one name apart, and a list called like a part of the data set from that part.
        label=f"{split_file.stem}-{split_hash(listed)[:6]}",
        pairs=tuple(pair for pair in everything.pairs if pair.id in wanted or pair.key in wanted),
        faults=tuple(fault for fault in everything.faults if fault.id in wanted or fault.key in wanted),
    )


def refuse_ambiguous(listed: Sequence[str], pairs: Sequence[Pair], split_file: Path) -> None:
    """Refuse a listed id that pairs of several splits have.

    Raises:
        DataError: there is one; the message lists the keys to write instead.
    """
    counts = Counter(pair.id for pair in pairs)
    twice = [name for name in listed if counts[name] > 1]
    if twice:
        keys = ", ".join(pair.key for pair in pairs if pair.id == twice[0])
        raise DataError(f"{split_file}: {twice[0]!r} names {counts[twice[0]]} pairs; write one of {keys}")


def _nothing_found(spec: DatasetSpec, root: Path, split: str | None) -> str:
    if not root.is_dir():
        return f"{spec.name}: {root} is not a folder. Where to get the data set: emma-tasks datasets {spec.name}"
    expected = " or ".join(
        f"{infrared} + {visible}" for part in _chosen(spec, split) for infrared, visible in part.folders
    )
    return (
        f"{spec.name}: no pair of folders under {root} (expected {expected}). "
        f"Where to get it: emma-tasks datasets {spec.name}"
    )


def _endings() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
