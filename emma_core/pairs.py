"""The pairs of a data set on disk: two folders, images of one stem, and what of them cannot be used.

Folder names are matched without regard to case, because every public copy spells them differently. Nothing here opens
an image or needs torch.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.datasets import SAMPLE_MARK, declared, sample_of
from emma_core.errors import DataError
from emma_core.files import read_bytes
from emma_core.text import is_plain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from emma_core.datasets import DatasetSpec, Side, Split

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings that are taken for images, compared in lower case."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two aligned images of one scene.

    Attributes:
        split: the part of the data set it belongs to.
        id: the stem that both file names share; unique within the split.
        infrared_file: of the infrared (or CT, PET, SPECT) image, as text: a path object takes four times the memory.
        visible_file: of the visible (or MRI) image.
        colour_from: the side whose Cb and Cr the fused image takes.
    """

    split: str
    id: str
    infrared_file: str
    visible_file: str
    colour_from: Side = "visible"

    @property
    def infrared(self) -> Path:
        """File of the infrared (or CT, PET, SPECT) image."""
        return Path(self.infrared_file)

    @property
    def visible(self) -> Path:
        """File of the visible (or MRI) image."""
        return Path(self.visible_file)

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
        listed: the file of ids that chose them, if one did.
    """

    dataset: str
    root: Path
    label: str
    pairs: tuple[Pair, ...]
    spec: DatasetSpec
    faults: tuple[Fault, ...] = ()
    listed: Path | None = None

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted ``split/id`` keys: equal hashes mean the same images were asked for."""
        return split_hash(pair.key for pair in self.pairs)

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits that its pairs come from, sorted."""
        return tuple(sorted({pair.split for pair in self.pairs}))

    @property
    def whole(self) -> bool:
        """Whether these are all pairs of their parts; of a list of ids, or the first so many, the label says so."""
        return self.label in {"all", *(part.name for part in self.spec.splits)}

    def sources_hash(self) -> str:
        """SHA-256 over the content of all source files: equal hashes mean the same pictures, not just the same ids.

        Raises:
            OSError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for pair in self.pairs:
            for file in (pair.infrared, pair.visible):
                digest.update(hashlib.sha256(read_bytes(file)).digest())
        return digest.hexdigest()

    def first(self, limit: int | None) -> PairSet:
        """Keep the first so many pairs, or all; what is unusable stays named."""
        if limit is None or limit >= len(self.pairs):
            return self
        return replace(self, label=f"{self.label}-first-{limit}", pairs=self.pairs[:limit])


def join_key(split: str, identifier: str) -> str:
    """Join a split and an id to the key of a pair; a nameless split adds nothing."""
    return f"{split}/{identifier}" if split else identifier


def split_hash(keys: Iterable[str]) -> str:
    """Return the SHA-256 of a set of ``split/id`` keys, one a line, sorted."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def find_pairs(spec: DatasetSpec, root: Path, *, split: str | None = None, split_file: Path | None = None) -> PairSet:
    """Find the pairs of a data set.

    Args:
        spec: what to look for, from :func:`emma_core.datasets.dataset_spec` or
            :func:`emma_core.datasets.folder_spec`.
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
        spec = sample_of(spec)
    found = [(part, folders) for part in spec.chosen(split) if (folders := _folders(root, part))]
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
        raise DataError(f"{spec.name}: the folders under {root} hold no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if not chosen.pairs:
        raise DataError(
            f"{spec.name}: not one of {len(chosen.faults)} images under {root} can be used; expected images of one "
            f"name in both folders; first: {chosen.faults[0]}"
        )
    return chosen


def read_split_file(path: Path) -> list[str]:
    """Read a list of ids, one a line; blank lines and lines that start with ``#`` are left out.

    Raises:
        DataError: the file is missing, is not text, or lists nothing or an id twice.
    """
    try:  # a pipe, too: --split-file <(ls folder) is how some people list ids
        lines = [without_suffix(line.strip()) for line in path.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a list of ids, one a line") from None
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read as text; expected a list of ids, one a line") from None
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise DataError(f"{path}: lists no id; expected one a line")
    if ids[0].startswith("{"):
        raise DataError(f"{path}: is JSON, like a split.json of detect; expected a list of ids, one a line")
    twice = [listed for listed, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: lists {twice[0]!r} twice")
    return ids


def without_suffix(name: str) -> str:
    """Take the ending of an image file off a listed name."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


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
        infrared_files, visible_files = files_by_stem(infrared), files_by_stem(visible)
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
            pairs.append(Pair(part.name, first.stem, str(first), str(second), part.colour_from))
    return sorted(pairs, key=lambda pair: pair.id), faults


def on_any_disk(name: str) -> str:
    """Spell a name as a disk compares it that knows neither case nor the two forms of accents in Unicode."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def files_by_stem(
    folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, spell: Callable[[str], str] = on_any_disk
) -> dict[str, list[Path]]:
    """Group the files of a folder by stem.

    Args:
        folder: to look in.
        suffixes: endings of the files that count, in lower case; by default those of images.
        spell: how stems are compared; by default what is one name on some disks collides.

    Raises:
        OSError: the folder cannot be listed.
    """
    groups: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):  # a path keeps what it is compared by
        if entry.suffix.lower() in suffixes and not entry.name.startswith("."):
            groups.setdefault(spell(entry.stem), []).append(entry)
    return groups


def only_one(files: Sequence[Path], kind: str) -> Path | None:
    """Return the file of a pair, or None where it has none.

    Args:
        files: all that are called like it, as :func:`files_by_stem` groups them.
        kind: what they are, for the message, e.g. ``masks``.

    Raises:
        DataError: there are several, and which is meant is not known.
    """
    if len(files) > 1:
        raise DataError(
            f"{files[0].parent}: two {kind} of one pair: {', '.join(file.name for file in files)}; keep one"
        )
    return files[0] if files else None


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
        listed=split_file,
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
    where = f". Where to get it: emma-tasks datasets {spec.name}" if declared(spec.name) else ""  # or it is one's own
    if not root.is_dir():
        return f"{spec.name}: {root} is not a folder{where}"
    candidates = [folders for part in spec.chosen(split) for folders in part.folders]
    if len(candidates) == 1 and not where:
        lost = [folder for folder in candidates[0] if not _resolve(root, folder)]
        return f"{spec.name}: no such folder: {' and '.join(lost)}"
    expected = " or ".join(f"{infrared} + {visible}" for infrared, visible in candidates)
    return f"{spec.name}: no pair of folders under {root} (expected {expected}){where}"
