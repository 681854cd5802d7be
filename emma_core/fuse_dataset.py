"""Fusing a whole data set: resumable, atomic, and with a record of what was made from what.

Each image is written under a temporary name and renamed, then its line goes to the journal; a run that is
killed at any moment continues where it was, and leaves the same bytes as a run that was not.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from emma_core.batches import WAITING
from emma_core.errors import DataError, EmmaError, ManifestError, UsageError
from emma_core.fuse import fuse_pair, read_pair
from emma_core.images import encode_png, write_atomic
from emma_core.manifest import (
    MANIFEST,
    Journal,
    Manifest,
    Row,
    file_sha256,
    forget,
    locked,
    read_manifest,
    resume_manifest,
    sha256,
    sweep,
    write_manifest,
)
from emma_core.pairs import Fault, Pair, PairSet
from emma_core.runtime import map_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from emma_core.fuse import Colour
    from emma_core.fusers import Fuser
    from emma_core.images import FloatImage


ColourSetting = Literal["source", "infrared", "none"]
"""Whose Cb and Cr fused images take: those of the side that the data set names, the infrared's, or nobody's."""


@dataclass(frozen=True)
class FuseSummary:
    """What a run did.

    Attributes:
        folder: where the images and ``manifest.json`` are.
        fused: number of images made now.
        kept: number of images that were there already, made by the same settings from the same files.
        faults: what of its pairs could not be fused, with reasons.
    """

    folder: Path
    fused: int
    kept: int
    faults: tuple[Fault, ...]


def fused_folder(runs: Path, dataset: str, name: str) -> Path:
    """Return where fused images of a data set are kept, by the name of their row: the method's, if not another."""
    return runs / "fused" / dataset / name


def fuse_dataset(
    pairs: PairSet,
    fuser: Fuser,
    folder: Path,
    *,
    colour: ColourSetting = "source",
    tile: int | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    on_pair: Callable[[Pair], None] = lambda _: None,
    on_source: Callable[[Path, FloatImage], None] = lambda *_: None,
) -> FuseSummary:
    """Fuse the pairs of a data set into a folder.

    A run over whole parts, not a list of ids or the first so many pairs, also removes the images of pairs that are
    gone from these parts.

    Args:
        pairs: what to fuse, from :func:`emma_core.pairs.find_pairs`.
        fuser: how.
        folder: where to; images go to ``<folder>/<split>/<id>.png``.
        colour: whose Cb and Cr the images take.
        tile: as for :func:`emma_core.fuse.fuse_pair`.
        limit: only the first so many pairs.
        overwrite: fuse the pairs anew instead of continuing or refusing; what was made with other settings, or of
            other data, is removed from the folder.
        on_pair: called after each pair, for a progress bar.
        on_source: called with every source image that is read, from several threads.

    Returns:
        What was done. Pairs that cannot be read are counted and named, the rest is fused.

    Raises:
        BusyError: another process is writing into the folder.
        ManifestError: the folder was made of other data or with other settings.
        UsageError: the folder is one of the source folders.
        EmmaError: an image cannot be written.
    """
    manifest = _wanted(pairs, fuser, colour, tile)
    _refuse_source_folders(pairs, folder)
    with locked(folder):
        pairs = pairs.first(limit)
        if overwrite:
            _forget(pairs, folder, manifest)
        manifest = _go_on(folder, manifest)
        sweep(folder, pairs.parts)
        try:
            return _fuse_all(pairs, fuser, folder, manifest, on_pair, on_source)
        except OSError as error:
            raise EmmaError(
                f"{error.filename or folder}: cannot be written ({error.strerror}); what is done is kept, "
                "the same command continues"
            ) from None


def pairs_to_fuse(
    pairs: PairSet,
    fuser: Fuser,
    folder: Path,
    *,
    colour: ColourSetting = "source",
    tile: int | None = None,
    overwrite: bool = False,
) -> int:
    """Count the pairs that :func:`fuse_dataset` would fuse if no source has changed; arguments as there.

    The record of the folder is taken at its word: to look at every file would take as long as reading the data set.

    Raises:
        ManifestError: the folder was made of other data or with other settings.
        UsageError: the folder is one of the source folders.
    """
    _refuse_source_folders(pairs, folder)
    if overwrite:
        return len(pairs.pairs)
    made = _go_on(folder, _wanted(pairs, fuser, colour, tile)).rows
    return sum(pair.key not in made for pair in pairs.pairs)


def is_done(pair: Pair, row: Row | None, folder: Path) -> bool:
    """Tell whether a fused image is there, whole, and made from the files as they are now."""
    return (
        row is not None and file_sha256(folder / row.file) == row.sha256 and row.made_from(pair.infrared, pair.visible)
    )


def _wanted(pairs: PairSet, fuser: Fuser, colour: ColourSetting, tile: int | None) -> Manifest:
    """Describe what a run makes, of what and how."""
    settings = {**fuser.settings, "colour": colour, "tile": tile if fuser.tiles else None}
    return Manifest(pairs.dataset, str(pairs.root.resolve()), settings)


def _go_on(folder: Path, wanted: Manifest) -> Manifest:
    """Return the record that a run goes on from, if it may."""
    _refuse_other_precision(folder, wanted.settings)
    return resume_manifest(folder, wanted)


def _fuse_all(
    pairs: PairSet,
    fuser: Fuser,
    folder: Path,
    manifest: Manifest,
    on_pair: Callable[[Pair], None],
    on_source: Callable[[Path, FloatImage], None],
) -> FuseSummary:
    """Bring every pair up to date, several at a time, then write the manifest."""
    _remove_gone(pairs, folder, manifest)
    elsewhere, manifest.failures = _failures_elsewhere(pairs, manifest), {}
    for fault in pairs.faults:
        _note_failure(fault, folder, manifest)
    fused = kept = 0
    writing = Lock()

    def bring_up_to_date(pair: Pair) -> Row | Fault | None:
        if is_done(pair, manifest.rows.get(pair.key), folder):
            return None
        try:
            row = _make(pair, pairs.root, fuser, folder, manifest.settings, on_source)
        except DataError as error:
            return Fault(pair.split, pair.id, str(error))
        with writing:  # at once: a slow image must not keep the record of others waiting
            journal.add(row)
        return row

    # While one batch is on an accelerator, the next is read and the last written.
    mapped = map_images(bring_up_to_date, pairs.pairs, fuser.device, at_once=WAITING)
    # Whatever ends the loop, the workers end before the journal that they write to is closed.
    with Journal(folder, manifest) as journal, closing(mapped) as outcomes:
        for pair, outcome in zip(pairs.pairs, outcomes, strict=True):
            if isinstance(outcome, Fault):
                _note_failure(outcome, folder, manifest)
            elif outcome is None:
                row = manifest.rows[pair.key]  # it says where its sources are now: the data set may have moved
                manifest.rows[pair.key] = replace(row, **_sources(pair, pairs.root))
                kept += 1
            else:
                manifest.rows[pair.key] = outcome
                fused += 1
            on_pair(pair)
    faults = tuple(manifest.failures[key] for key in sorted(manifest.failures))
    manifest.failures |= elsewhere
    write_manifest(folder, manifest)
    return FuseSummary(folder, fused, kept, faults)


def _forget(pairs: PairSet, folder: Path, manifest: Manifest) -> None:
    """Remove the images of pairs; all images of the folder, if they do not belong with those that will be made."""
    try:
        found = resume_manifest(folder, Manifest(manifest.dataset, manifest.root, manifest.settings))
    except ManifestError:
        forget(folder)
        return
    for pair in pairs.pairs:
        _remove(pair.key, folder, found)


def _remove_gone(pairs: PairSet, folder: Path, manifest: Manifest) -> None:
    """Remove images of pairs that are gone from whole parts; a part without any pair may just not be there today."""
    parts = pairs.parts if pairs.whole else ()
    gone = {key for key, row in manifest.rows.items() if row.split in parts}
    gone.difference_update(pair.key for pair in pairs.pairs)
    for key in gone:
        _remove(key, folder, manifest)


def _failures_elsewhere(pairs: PairSet, manifest: Manifest) -> dict[str, Fault]:
    """Return what earlier runs could not make and this one does not try: what it tries, it finds anew."""
    parts = pairs.parts if pairs.whole else ()
    others = {key: fault for key, fault in manifest.failures.items() if fault.split not in parts}
    tried: list[Pair | Fault] = [*pairs.pairs, *pairs.faults]
    for item in tried:
        others.pop(item.key, None)
    return others


def _note_failure(fault: Fault, folder: Path, manifest: Manifest) -> None:
    """Record that a pair cannot be fused; an image that an earlier run made of it is of files that are no more."""
    manifest.failures[fault.key] = fault
    _remove(fault.key, folder, manifest)


def _remove(key: str, folder: Path, manifest: Manifest) -> None:
    """Remove an image with its row: without one, nothing would ever remove the file."""
    if row := manifest.rows.pop(key, None):
        (folder / row.file).unlink(missing_ok=True)


def _refuse_other_precision(folder: Path, settings: Mapping[str, Any]) -> None:
    """Where the number format alone is another, as it may be by default, say how to go on in that of the folder."""
    if not (folder / MANIFEST).exists():
        return
    earlier = read_manifest(folder).settings
    if earlier != settings and {**earlier, "precision": settings.get("precision")} == settings:
        raise ManifestError(
            f"{folder}: was begun in {earlier['precision']}, now {settings['precision']}; go on with "
            f"--precision {earlier['precision']}, choose another --name or folder, or replace it with --overwrite"
        )


def _refuse_source_folders(pairs: PairSet, folder: Path) -> None:
    """Keep fused images out of the folders that they are made from."""
    folders = {file.parent for pair in pairs.pairs for file in (pair.infrared, pair.visible)}
    sources = {place.resolve() for place in folders}
    for target in (folder, *(folder / split for split in pairs.parts)):
        if target.resolve() in sources:
            raise UsageError(f"{target}: holds the source images; choose another folder for the fused ones")


def _make(
    pair: Pair,
    root: Path,
    fuser: Fuser,
    folder: Path,
    settings: Mapping[str, Any],
    on_source: Callable[[Path, FloatImage], None],
) -> Row:
    # Before reading: a file that changes in between differs from its hash, and is fused again by the next run.
    infrared_sha256, visible_sha256 = file_sha256(pair.infrared) or "", file_sha256(pair.visible) or ""
    infrared, visible = read_pair(pair)
    on_source(pair.infrared, infrared)
    on_source(pair.visible, visible)
    colour: Colour = pair.colour_from if settings["colour"] == "source" else settings["colour"]
    fused = fuse_pair(infrared, visible, fuser, colour_from=colour, tile=settings["tile"])
    png = encode_png(fused)
    row = Row(
        split=pair.split,
        id=pair.id,
        **_sources(pair, root),
        infrared_sha256=infrared_sha256,
        visible_sha256=visible_sha256,
        sha256=sha256(png),
    )
    write_atomic(folder / row.file, png)
    return row


def _sources(pair: Pair, root: Path) -> dict[str, str]:
    return {"infrared": _relative(pair.infrared, root), "visible": _relative(pair.visible, root)}


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path.resolve()).as_posix()
