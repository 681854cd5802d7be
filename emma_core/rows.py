"""The rows of every table: the same pairs seen by infrared alone, by visible alone, and fused by each method.

A row is a name and one image file for each pair, so a detector, a segmenter or a metric treats all rows alike.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from emma_core.datasets import SAMPLE_SUFFIX, declared
from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.fuse import read_pair
from emma_core.fuse_dataset import fused_folder, is_done
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.images import narrow_range, read_image
from emma_core.manifest import JOURNAL, MANIFEST, Manifest, file_sha256, made_from, read_manifest, unusual
from emma_core.pairs import Pair, PairSet, files_by_stem, on_any_disk
from emma_core.results import NAIVE_ROWS, SOURCE_ROWS
from emma_core.text import is_plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECORDS = (MANIFEST, JOURNAL)
"""Files that tell a folder of ``fuse-dataset``, finished or not."""

FIXED_ROWS = (*SOURCE_ROWS, *NAIVE_ROWS)
"""Rows that a table has without anybody naming them: each source alone, and the naive rules."""


@dataclass(frozen=True)
class InputRow:
    """One kind of input.

    Attributes:
        name: of the row, e.g. ``IR``, ``VI``, ``EMMA``.
        files: the image of each pair, by ``split/id``.
        source: what the result says of their origin.
        baseline: whether it is an input without fusion, or a naive rule.
    """

    name: str
    files: Mapping[str, Path]
    source: Mapping[str, Any]
    baseline: bool = False


def refuse_fixed_name(option: str, name: str, method: str = "") -> None:
    """Refuse to give images the name of a row whose place they would take; case does not matter on every disk.

    Args:
        option: that names the row.
        name: of the row.
        method: the images are fused by; images of a naive rule may bear its name.

    Raises:
        UsageError: the name is one of :data:`FIXED_ROWS`.
    """
    if _is_fixed(name) and not (name == method and method in NAIVE_ROWS):
        names = ", ".join(FIXED_ROWS)
        raise UsageError(f"{option} {name!r}: tables have a row of that name already; expected none of {names}")


def source_rows(pairs: PairSet) -> tuple[InputRow, InputRow]:
    """Return the rows of each camera alone: infrared (or what stands for it), then visible."""
    infrared = {pair.key: pair.infrared for pair in pairs.pairs}
    visible = {pair.key: pair.visible for pair in pairs.pairs}
    return (
        InputRow(pairs.spec.infrared_label, infrared, {}, baseline=True),
        InputRow(pairs.spec.visible_label, visible, {}, baseline=True),
    )


def narrow_note(pairs: PairSet) -> tuple[str, ...]:
    """Say under a table of a camera whose 16-bit images use little of their range; the first image stands for all.

    Such images are scored, and learned from, as they are read: dark or flat. Nobody would think so of their figures.
    """
    spec, first = pairs.spec, pairs.pairs[0]
    said = []
    for label, path in ((spec.infrared_label, first.infrared), (spec.visible_label, first.visible)):
        with contextlib.suppress(DataError):  # what cannot be read is told elsewhere
            if used := narrow_range(read_image(path)):
                said.append(
                    f"{label}: images of 16 bits that use little of the range ({path.name}: {used:.1%}), so they are "
                    "dark or flat here, and no measure of the camera. Stretch them first, all by one window."
                )
    return tuple(said)


def chosen_rows(
    pairs: PairSet,
    runs: Path,
    *,
    infrared: bool = False,
    visible: bool = False,
    fused: bool = False,
    folders: Sequence[tuple[str, Path]] = (),
) -> tuple[InputRow, ...]:
    """Return the rows that a person asks for; without any of the three kinds, all of them. Folders are added.

    Args:
        pairs: the pairs that every row must cover.
        runs: where ``fuse-dataset`` left its folders.
        infrared: the row of the infrared images.
        visible: the row of the visible images.
        fused: a row for every folder of ``fuse-dataset`` of this data set; see :func:`fused_rows`.
        folders: (name, folder) of fused images made elsewhere.

    Returns:
        The rows, sources first.

    Raises:
        UsageError: two rows would have one name.
        DataError: a row lacks images, or fused ones are asked for and there are none; the message names the command
            that makes them.
        ManifestError: a folder under ``runs`` has a damaged manifest.
    """
    everything = not (infrared or visible or fused)
    wanted = (infrared or everything, visible or everything)
    sources = [row for row, asked in zip(source_rows(pairs), wanted, strict=True) if asked]
    ours = fused_rows(pairs, runs, needed=fused or not folders) if fused or everything else ()
    if not ours and (fused or (everything and not folders)):
        place, command = fused_folder(runs, pairs.dataset, ""), fuse_command(pairs, "EMMA", *_into(runs))
        raise DataError(f"No fused {pairs.dataset} images under {place}. Make them with: {command}")
    return (*sources, *with_foreign(ours, pairs, folders, every_pair=True))


def fused_rows(pairs: PairSet, runs: Path, *, naive: bool = True, needed: bool = True) -> tuple[InputRow, ...]:
    """Find the rows of ``fuse-dataset``.

    A folder that lacks images is left out, and named on stderr, as long as another one is whole or none is needed.

    Args:
        pairs: the pairs that every row must cover.
        runs: where ``fuse-dataset`` left its folders.
        naive: whether to take those of naive rules. A table that computes these rules itself does not: its rows
            must not depend on whether their images were made for a detector.
        needed: whether there is nothing to do without them.

    Returns:
        The rows; none if nothing was fused yet.

    Raises:
        UsageError: a row has the name of a source, or of a naive rule that it was not fused by.
        DataError: every folder lacks images, and some are needed; the message names the command that makes them.
        ManifestError: a folder has a damaged manifest.
    """
    place = fused_folder(runs, pairs.dataset, "")
    ours = [folder for folder in sorted(place.glob("*")) if any((folder / name).exists() for name in RECORDS)]
    ours = [folder for folder in ours if naive or folder.name not in NAIVE_ROWS]
    for folder in ours:
        if _is_fixed(folder.name) and folder.name not in NAIVE_ROWS:
            raise UsageError(f"{folder}: {folder.name!r} is the name of a fixed row; fuse again with another --name")
    return _whole_rows(ours, pairs, needed=needed)


def with_foreign(
    rows: Sequence[InputRow], pairs: PairSet, folders: Sequence[tuple[str, Path]], *, every_pair: bool = False
) -> tuple[InputRow, ...]:
    """Add rows of fused images that were made elsewhere.

    Args:
        rows: those of ``fuse-dataset``.
        pairs: the pairs that every row must cover.
        folders: (name, folder) of ``<id>.*`` or ``<split>/<id>.*``.
        every_pair: whether images of pairs that cannot be fused are needed, too; a table that leaves those out for all
            rows does without.

    Returns:
        All, the added ones last.

    Raises:
        UsageError: a row has the name of another, a fixed one included, or one with folders in it.
        DataError: a row lacks images.
    """
    taken = {row.name for row in rows}
    for name, _ in folders:
        if not is_plain_name(name):
            raise UsageError(f"{name!r} cannot name a row; expected a name without folders in --fused-dir NAME=DIR")
        refuse_fixed_name("--fused-dir", name)
        if name in taken:
            raise UsageError(f"Two rows would be called {name!r}; choose another name in --fused-dir NAME=DIR")
        taken.add(name)
    return (*rows, *(_foreign_row(name, folder, pairs, every_pair=every_pair) for name, folder in folders))


def fuse_command(pairs: PairSet, method: str, *options: str) -> str:
    """Spell the command that makes fused images of a data set by a method, with options that are spelt as they are."""
    command = pairs.spec.command or _fuse_dataset(pairs)
    return " ".join([command, *_part(pairs), "--method", method, *options])


def _fuse_dataset(pairs: PairSet) -> str:
    where = f"--root {shlex.quote(str(pairs.root))}"
    if declared(pairs.dataset) is None:
        infrared, visible = (shlex.quote(str(folder)) for folder in _own_folders(pairs))
        where = f"--ir {infrared} --vis {visible}"
    return f"emma-tasks fuse-dataset {shlex.quote(pairs.dataset.removesuffix(SAMPLE_SUFFIX))} {where}"


def _part(pairs: PairSet) -> list[str]:
    """Spell the option that chooses these pairs of their data set."""
    if pairs.listed:
        return ["--split-file", shlex.quote(str(pairs.listed))]
    splits = [part.name for part in pairs.spec.splits]
    return ["--split", shlex.quote(pairs.label)] if pairs.label in splits and len(splits) > 1 else []


def _own_folders(pairs: PairSet) -> tuple[Path, Path]:
    """Return the two folders of a data set of one's own, with ``{split}`` in them where it has parts."""
    if pairs.spec.patterns:
        infrared, visible = pairs.spec.patterns
        return pairs.root / infrared, pairs.root / visible
    return pairs.pairs[0].infrared.parent, pairs.pairs[0].visible.parent


def _is_fixed(name: str) -> bool:
    return name.casefold() in {fixed.casefold() for fixed in FIXED_ROWS}


class _IncompleteError(DataError):
    """A folder of ``fuse-dataset`` lacks images; its text names the command that makes them."""


def _whole_rows(folders: Sequence[Path], pairs: PairSet, *, needed: bool) -> tuple[InputRow, ...]:
    """Take the folders that have all images; nobody asked for the others by name, so they do not stop the rest."""
    rows: list[InputRow] = []
    incomplete: list[_IncompleteError] = []
    for folder in folders:
        try:
            rows.append(_own_row(folder, pairs))
        except _IncompleteError as error:
            incomplete.append(error)
    if incomplete and needed and not rows:
        raise incomplete[0]
    for fault in incomplete:
        typer.echo(f"No row for {fault}", err=True)
    return tuple(rows)


def _own_row(folder: Path, pairs: PairSet) -> InputRow:
    """Take the images that ``fuse-dataset`` left in a folder: all of them, as it left them, of these very sources."""
    if not (folder / MANIFEST).exists():
        tool, _, _ = (pairs.spec.command or "emma-tasks fuse-dataset").partition(" --")
        raise _IncompleteError(f"{folder}: its run was stopped; finish it with the same {tool} command")
    manifest = read_manifest(folder)
    if folder.name in NAIVE_ROWS and manifest.method != folder.name:
        raise UsageError(
            f"{folder}: holds images by {manifest.method}, and has the name of a naive rule; "
            "fuse again with another --name"
        )
    if manifest.dataset != pairs.dataset:
        raise ManifestError(f"{folder}: holds images of {manifest.dataset}, expected {pairs.dataset}")
    lost = [
        pair.key
        for pair in pairs.pairs
        if pair.key not in manifest.failures and not is_done(pair, manifest.rows.get(pair.key), folder)
    ]
    if lost:
        raise _IncompleteError(
            f"{folder}: {len(lost)} of {len(pairs.pairs)} fused images are missing, or made from other files, "
            f"first {lost[0]}. Make them with: {_again(folder, pairs, manifest)}"
        )
    files = {pair.key: folder / f"{pair.key}.png" for pair in pairs.pairs}
    source = {
        "fused": f"{pairs.dataset}/{folder.name}",
        "method": manifest.method,
        "manifest_sha256": file_sha256(folder / MANIFEST),
        "checkpoint_sha256": manifest.settings.get("checkpoint_sha256"),
        "precision": manifest.settings.get("precision"),
        **unusual(manifest.settings),
    }
    return InputRow(folder.name, files, source, baseline=folder.name in NAIVE_ROWS)


def _again(folder: Path, pairs: PairSet, manifest: Manifest) -> str:
    """Spell the command that brings a folder of fused images up to date, with the settings that it was made with."""
    settings, odd, root = manifest.settings, unusual(manifest.settings), pairs.root.resolve()
    checkpoint = settings.get("checkpoint_sha256")
    asked = {
        "--weights FILE": checkpoint is not None and checkpoint != file_sha256(SHIPPED_WEIGHTS),
        f"--precision {settings.get('precision')}": settings.get("precision") is not None,
        f"--range {odd.get('range')}": "range" in odd,
        "--grey": odd.get("colour") == "none",
        f"--tile {odd.get('tile')}": "tile" in odd,
        f"--name {shlex.quote(folder.name)}": folder.name != manifest.method,
        # A folder holds the images of one place; those of a data set that was merely moved stay.
        "--overwrite": manifest.root != str(root) and not made_from(root, manifest),
    }
    if pairs.spec.command and (manifest.method in NAIVE_ROWS or {"colour", "tile"} & odd.keys()):
        # It has neither these methods nor these options.
        return " ".join([pairs.spec.command, *_part(pairs), *_into(folder.parents[2])])
    options = [option for option, needed in asked.items() if needed]
    return fuse_command(pairs, manifest.method, *options, *_into(folder.parents[2]))


def _into(runs: Path) -> list[str]:
    """Spell the option that names the folder of runs, where it is not the usual one."""
    return [] if runs == Path("runs") else ["--runs", shlex.quote(str(runs))]


def _foreign_row(name: str, folder: Path, pairs: PairSet, *, every_pair: bool) -> InputRow:
    """Take images made elsewhere, see :func:`with_foreign`."""
    if not folder.is_dir():
        raise DataError(f"--fused-dir {name}={folder}: no such folder; expected fused images named as the sources")
    flat = len({pair.id for pair in pairs.pairs}) == len(pairs.pairs)
    parts = {part: [folder / part, folder] if flat else [folder / part] for part in pairs.parts}
    places = {place for candidates in parts.values() for place in candidates if place.is_dir()}
    images = {place: files_by_stem(place) for place in places}
    found = {
        pair.key: _fused_files(pair, [images[place] for place in parts[pair.split] if place in images])
        for pair in pairs.pairs
    }
    twice = next((files for files in found.values() if len(files) > 1), None)
    if twice:
        names = ", ".join(file.name for file in twice)
        raise DataError(f"--fused-dir {name}={folder}: two fused images of one pair: {names}; keep one")
    files = {key: files[0] for key, files in found.items() if files}
    absent = [pair for pair in pairs.pairs if pair.key not in files]
    missed = next((pair for pair in absent if every_pair or _can_be_fused(pair)), None)
    if missed:
        advice = "make them, or ask only for the ids that are there (--help names the option for a list of ids)"
        if not flat:
            advice = f"ids repeat between the parts of {pairs.dataset}, so expected a folder for each part"
        raise DataError(
            f"--fused-dir {name}={folder}: {len(absent)} of {len(pairs.pairs)} fused images are missing, "
            f"first {missed.key}; {advice}"
        )
    return InputRow(name, files, {"folder": str(folder)})


def _can_be_fused(pair: Pair) -> bool:
    try:
        read_pair(pair)
    except DataError:
        return False
    return True


def _fused_files(pair: Pair, tables: Sequence[Mapping[str, list[Path]]]) -> list[Path]:
    """Take the images of a pair from the first folder that has any."""
    return next((files for table in tables if (files := table.get(on_any_disk(pair.id)))), [])
