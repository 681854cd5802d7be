"""The rows of every table: the same pairs seen by infrared alone, by visible alone, and fused by each method.

A row is a name and one image file for each pair, so a detector, a segmenter or a metric treats all rows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from emma_core.datasets import IMAGE_SUFFIXES, SAMPLE_SUFFIX, Pair, PairSet, declared, is_plain_name
from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.fuse_dataset import fused_folder, is_done
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.manifest import JOURNAL, MANIFEST, Manifest, file_sha256, read_manifest
from emma_core.results import NAIVE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RECORDS = (MANIFEST, JOURNAL)
"""Files that tell a folder of ``fuse-dataset``, finished or not."""


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
    source: Mapping[str, str | None]
    baseline: bool = False


def source_rows(pairs: PairSet) -> tuple[InputRow, InputRow]:
    """Return the rows of each camera alone: infrared (or what stands for it), then visible."""
    infrared = {pair.key: pair.infrared for pair in pairs.pairs}
    visible = {pair.key: pair.visible for pair in pairs.pairs}
    return (
        InputRow(pairs.spec.infrared_label, infrared, {}, baseline=True),
        InputRow(pairs.spec.visible_label, visible, {}, baseline=True),
    )


def chosen_rows(
    pairs: PairSet,
    runs: Path,
    *,
    infrared: bool = False,
    visible: bool = False,
    fused: bool = False,
    folders: Sequence[tuple[str, Path]] = (),
) -> tuple[InputRow, ...]:
    """Return the rows that a person asks for; if nothing is asked for, all but the foreign folders.

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
    if not (infrared or visible or fused or folders):
        infrared = visible = fused = True
    rows = [row for row, wanted in zip(source_rows(pairs), (infrared, visible), strict=True) if wanted]
    if fused:
        ours = fused_rows(pairs, runs)
        if not ours:
            place = fused_folder(runs, pairs.dataset, "")
            raise DataError(
                f"No fused {pairs.dataset} images under {place}. Make them with: {fuse_command(pairs, 'EMMA')}"
            )
        rows += ours
    rows += fused_rows(pairs, runs, folders) if folders else ()
    names = [row.name for row in rows]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"Two rows would be called {twice[0]!r}; choose another name in --fused-dir NAME=DIR")
    return tuple(rows)


def fused_rows(pairs: PairSet, runs: Path, folders: Sequence[tuple[str, Path]] = ()) -> tuple[InputRow, ...]:
    """Find the rows of fused images.

    A folder of ``fuse-dataset`` that lacks images is left out, and named on stderr, as long as another one is whole.

    Args:
        pairs: the pairs that every row must cover.
        runs: where ``fuse-dataset`` left its folders.
        folders: (name, folder) of images made elsewhere, ``<id>.*`` or ``<split>/<id>.*``; if any is given,
            only these are taken.

    Returns:
        The rows; none if nothing was fused yet.

    Raises:
        UsageError: a row has the name of another.
        DataError: a row lacks images; the message names the command that makes them.
        ManifestError: a folder under ``runs`` has a damaged manifest.
    """
    taken = {pairs.spec.infrared_label, pairs.spec.visible_label}
    if not folders:
        parent = fused_folder(runs, pairs.dataset, "x").parent
        ours = [folder for folder in sorted(parent.glob("*")) if any((folder / name).exists() for name in RECORDS)]
        for folder in ours:
            if folder.name in taken:
                raise UsageError(
                    f"{folder}: {folder.name!r} is the name of a source row; fuse again with another --name"
                )
        return _whole_rows(ours, pairs)
    for name, _ in folders:
        if not is_plain_name(name):
            raise UsageError(f"{name!r} cannot name a row; expected a name without folders in --fused-dir NAME=DIR")
        if name in taken:
            raise UsageError(f"Two rows would be called {name!r}; choose another name in --fused-dir NAME=DIR")
        taken.add(name)
    return tuple(_foreign_row(name, folder, pairs) for name, folder in folders)


def fuse_command(pairs: PairSet, method: str, *, weights: bool = False, row: str = "") -> str:
    """Spell the command that makes fused images of a data set.

    Args:
        pairs: of the data set.
        method: to fuse by.
        weights: whether it takes a file of weights.
        row: its name, where that is not the method's.
    """
    first = pairs.pairs[0]
    where = f"--root {pairs.root}"
    if declared(pairs.dataset) is None:
        where = f"--ir {first.infrared.parent} --vis {first.visible.parent}"
    name = f" --name {row}" if row not in {"", method} else ""
    dataset = pairs.dataset.removesuffix(SAMPLE_SUFFIX)
    return f"emma-tasks fuse-dataset {dataset} {where} --method {method}{' --weights FILE' * weights}{name}"


class _IncompleteError(DataError):
    """A folder of ``fuse-dataset`` lacks images; its text names the command that makes them."""


def _whole_rows(folders: Sequence[Path], pairs: PairSet) -> tuple[InputRow, ...]:
    """Take the folders that have all images; nobody asked for the others by name, so they do not stop the rest."""
    rows: list[InputRow] = []
    incomplete: list[_IncompleteError] = []
    for folder in folders:
        try:
            rows.append(_own_row(folder, pairs))
        except _IncompleteError as error:
            incomplete.append(error)
    if incomplete and not rows:
        raise incomplete[0]
    for fault in incomplete:
        typer.echo(f"No row for {fault}", err=True)
    return tuple(rows)


def _own_row(folder: Path, pairs: PairSet) -> InputRow:
    """Take the images that ``fuse-dataset`` left in a folder: all of them, as it left them, of these very sources."""
    if not (folder / MANIFEST).exists():
        raise _IncompleteError(
            f"{folder}: its run was stopped; finish it with the same emma-tasks fuse-dataset command"
        )
    manifest = read_manifest(folder)
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
        "method": manifest.method,
        "manifest_sha256": file_sha256(folder / MANIFEST),
        "checkpoint_sha256": manifest.settings.get("checkpoint_sha256"),
    }
    return InputRow(folder.name, files, source, baseline=folder.name in NAIVE_ROWS)


def _again(folder: Path, pairs: PairSet, manifest: Manifest) -> str:
    """Spell the command that brings a folder of fused images up to date."""
    checkpoint = manifest.settings.get("checkpoint_sha256")
    weights = checkpoint is not None and checkpoint != file_sha256(SHIPPED_WEIGHTS)
    return fuse_command(pairs, manifest.method, weights=weights, row=folder.name)


def _foreign_row(name: str, folder: Path, pairs: PairSet) -> InputRow:
    """Take images made elsewhere; all of them must be there."""
    if not folder.is_dir():
        raise DataError(f"--fused-dir {name}={folder}: no such folder; expected fused images named as the sources")
    flat = len({pair.id for pair in pairs.pairs}) == len(pairs.pairs)
    files = {pair.key: path for pair in pairs.pairs if (path := _fused_file(folder, pair, flat))}
    missing = [pair.key for pair in pairs.pairs if pair.key not in files]
    if missing:
        advice = "make them, or ask only for the ids that are there (--help names the option for a list of ids)"
        if not flat:
            advice = f"ids repeat between the parts of {pairs.dataset}, so expected a folder for each part"
        raise DataError(
            f"--fused-dir {name}={folder}: {len(missing)} of {len(pairs.pairs)} fused images are missing, "
            f"first {missing[0]}; {advice}"
        )
    return InputRow(name, files, {"folder": str(folder)}, baseline=name in NAIVE_ROWS)


def _fused_file(folder: Path, pair: Pair, flat: bool) -> Path | None:
    places = (folder / pair.split, folder) if flat else (folder / pair.split,)
    candidates = (place / f"{pair.id}{suffix}" for place in places for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in candidates if path.exists()), None)
