"""The table of data sets: folders, splits, colours, terms and sources, each declared once.

Everything else (finding pairs, fusing, evaluating, the tasks, the report) reads the declaration. Nothing here looks at
a disk; :mod:`emma_core.pairs` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from emma_core.errors import UsageError
from emma_core.text import is_plain_name, same_name

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE_MARK = ".sample-data.json"
"""File at the root of a rendered stand-in; it keeps samples from being taken for the real data set."""

SAMPLE_SUFFIX = "-sample"

SPLIT_FIELD = "{split}"
"""What stands in the path of a folder of one's own for the name of a part."""

_OWN_PARTS = ("train", "val", "test")

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
        patterns: of folders of one's own with ``{split}`` in them: infrared, visible, absolute or below the root.
        command: that fuses its pairs, as a person types it, where that is not ``fuse-dataset``.
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
    patterns: tuple[str, str] | None = None
    command: str | None = None

    def chosen(self, split: str | None) -> tuple[Split, ...]:
        """Return the part of a name, without regard to case, or all parts where none is named.

        Raises:
            UsageError: there is no such part; the message lists those that there are.
        """
        if split is None:
            return self.splits
        parts = {part.name: part for part in self.splits}
        name = same_name(split, parts)
        if name is None:
            known = ", ".join(parts)
            raise UsageError(f"{self.name} has no split {split!r}; it has: {known}. For a list of ids: --split-file")
        return (parts[name],)


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


def dataset_spec(name: str, own: str = "add: --ir DIR --vis DIR") -> DatasetSpec:
    """Look a data set up by name, without regard to case.

    Args:
        name: of the table.
        own: how folders of one's own are given instead, for the message.

    Raises:
        UsageError: no such data set; the message lists those that are known.
    """
    if known := same_name(name.lower().removesuffix(SAMPLE_SUFFIX), DATASETS):
        return DATASETS[known]
    if name.lower().endswith(".toml"):
        raise UsageError(f"{name}: a declaration is for detect and segment; for the folders that it names {own}")
    raise UsageError(f"Unknown data set {name!r}; known: {', '.join(DATASETS)}. For your own folders {own}")


def declared(name: str) -> DatasetSpec | None:
    """Return what is known of a data set by the name that paths and results carry, or None."""
    spec = DATASETS.get(name.removesuffix(SAMPLE_SUFFIX))
    return sample_of(spec) if spec and name.endswith(SAMPLE_SUFFIX) else spec


def sample_of(spec: DatasetSpec) -> DatasetSpec:
    """Name a rendered stand-in apart from the data set whose layout it has."""
    return replace(spec, name=spec.name + SAMPLE_SUFFIX, title=f"Rendered sample scenes in the layout of {spec.name}")


def folder_spec(
    name: str, infrared: Path, visible: Path, *, split: str = "all", colour_from: Side = "visible"
) -> DatasetSpec:
    """Declare any two folders of equally named images as a data set.

    Args:
        name: of your own; those of the table are taken, so that nothing is mistaken for the real data set.
        infrared: folder; with ``{split}`` in its path it stands for those of ``train``, ``val`` and ``test``.
        visible: likewise.
        split: name of its only part, where there is no ``{split}``.
        colour_from: the side whose Cb and Cr the fused images take.

    Raises:
        UsageError: the name is taken, or could not stand in a path, or only one folder has ``{split}`` in it, or both
            are the same.
    """
    if not is_plain_name(name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a data set; expected a name without folders, no dot in front")
    if name.lower().removesuffix(SAMPLE_SUFFIX) in {known.lower() for known in DATASETS}:
        raise UsageError(f"{name} is a known data set: give --root DIR, or call your own folders by another name")
    return own_spec(name, str(infrared.resolve()), str(visible.resolve()), split, colour_from)


def own_spec(name: str, infrared: str, visible: str, split: str = "all", colour_from: Side = "visible") -> DatasetSpec:
    """Declare a data set of one's own; see :func:`folder_spec`, which looks at its name as well.

    Args:
        name: of the data set.
        infrared: folder, absolute or below the root; ``{split}`` in it for ``train``, ``val`` and ``test``.
        visible: likewise.
        split: name of its only part, where there is no ``{split}``.
        colour_from: the side whose Cb and Cr the fused images take.

    Raises:
        UsageError: only one folder has ``{split}`` in it, or both are the same.
    """
    if infrared == visible:
        raise UsageError(f"{name}: infrared and visible are both {infrared}; expected one folder of each camera")
    title, has_parts = f"{infrared} with {visible}", SPLIT_FIELD in infrared
    if has_parts != (SPLIT_FIELD in visible):
        raise UsageError(f"{title}: {SPLIT_FIELD} stands in one of them; expected in both or in neither")
    names = _OWN_PARTS if has_parts else (split,)
    parts = [Split(part, ((in_split(infrared, part), in_split(visible, part)),), colour_from) for part in names]
    patterns = (infrared, visible) if has_parts else None
    return DatasetSpec(name, title, tuple(parts), "yours", "yours", "-", patterns=patterns)


def in_split(folder: str, split: str) -> str:
    """Put the name of a part where ``{split}`` stands in the path of a folder."""
    return folder.replace(SPLIT_FIELD, split)
