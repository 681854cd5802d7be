"""Scoring fused images: every row on the same pairs, beside each source alone and the naive rules.

Sources and fused images are read back from disk and compared as grey levels, so a row says what a person gets
who opens the files. One row is one folder: ``runs/evaluate/<dataset>/<split>/<row>/{result.json,per_image.csv}``.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emma_core.datasets import (
    IMAGE_SUFFIXES,
    SAMPLE_SUFFIX,
    DatasetSpec,
    Fault,
    Pair,
    PairSet,
    declared,
    is_plain_name,
)
from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.fuse_dataset import fused_folder, is_done
from emma_core.images import luma, read_image, write_atomic
from emma_core.manifest import JOURNAL, MANIFEST, Manifest, file_sha256, read_manifest
from emma_core.metrics.fusion import METRICS, Metric, prepare
from emma_core.results import NAIVE_ROWS, Column, Result, result_folder, write_result
from emma_core.runtime import environment, map_images, resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

TASK = "evaluate"
RECORDS = (MANIFEST, JOURNAL)
"""Files that tell a folder of ``fuse-dataset``, finished or not."""


@dataclass(frozen=True)
class FusedRow:
    """Fused images of one method.

    Attributes:
        name: of the row.
        files: the fused image of each pair, by ``split/id``.
        source: what the result says of their origin.
    """

    name: str
    files: Mapping[str, Path]
    source: Mapping[str, str | None]


@dataclass(frozen=True)
class FusedRows:
    """The rows that are scored from files; IR, VI, mean and max are computed."""

    rows: tuple[FusedRow, ...]

    def labels(self, spec: DatasetSpec) -> list[str]:
        """Name all rows of the table in order: sources and naive rules, then the methods."""
        names = [row.name for row in self.rows]
        naive = [spec.infrared_label, spec.visible_label, *NAIVE_ROWS]
        return [name for name in naive if name not in names] + names


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_dataset` leaves.

    Attributes:
        results: one a row, as written.
        folder: the folder of the rows.
        faults: pairs that no row was scored on, with reasons.
    """

    results: tuple[Result, ...]
    folder: Path
    faults: tuple[Fault, ...]


def fused_rows(pairs: PairSet, runs: Path, folders: Sequence[tuple[str, Path]] = ()) -> FusedRows:
    """Find the fused images to score.

    Args:
        pairs: the pairs that every row must cover.
        runs: where ``fuse-dataset`` left its folders.
        folders: (name, folder) of images made elsewhere, ``<id>.*`` or ``<split>/<id>.*``; if any is given,
            only these are scored.

    Returns:
        The rows.

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
        return FusedRows(tuple(_own_row(folder, pairs) for folder in ours))
    for name, _ in folders:
        if not is_plain_name(name):
            raise UsageError(f"{name!r} cannot name a row; expected a name without folders in --fused-dir NAME=DIR")
        if name in taken:
            raise UsageError(f"Two rows would be called {name!r}; choose another name in --fused-dir NAME=DIR")
        taken.add(name)
    return FusedRows(tuple(_foreign_row(name, folder, pairs) for name, folder in folders))


def evaluate_dataset(
    pairs: PairSet,
    fused: FusedRows,
    runs: Path,
    *,
    device: str = "auto",
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Evaluation:
    """Score every row on the same pairs and write one result a row.

    A pair of which a source or any fused image cannot be used is left out of all rows, and named.

    Args:
        pairs: the pairs.
        fused: the rows that are read from files.
        runs: where results go.
        device: where to compute.
        on_pair: called after each pair, for a progress bar.

    Returns:
        The results, in the order of the table, and the faults.

    Raises:
        DataError: no pair could be scored.
    """
    begun = time.perf_counter()
    place = resolve_device(device)
    scores: dict[str, dict[str, list[float]]] = {}  # key of the pair -> row -> values in the order of the metrics
    faults = list(pairs.faults)

    def score(pair: Pair) -> dict[str, list[float]] | Fault:
        try:
            return _score_pair(pair, fused, pairs.spec, place)
        except DataError as error:
            return Fault(pair.split, pair.id, str(error))

    for pair, outcome in zip(pairs.pairs, map_images(score, pairs.pairs, place), strict=True):
        if isinstance(outcome, Fault):
            faults.append(outcome)
        else:
            scores[pair.key] = outcome
        on_pair(pair)
    if not scores:
        raise DataError(f"{pairs.dataset}: none of {len(pairs.pairs)} pairs could be scored; first: {faults[0]}")
    scored = tuple(pair for pair in pairs.pairs if pair.key in scores)
    subset = replace(pairs, pairs=scored, faults=())
    common = _common(subset, time.perf_counter() - begun, place)
    results = tuple(_write_row(label, subset, scores, fused, runs, common) for label in fused.labels(pairs.spec))
    folder = result_folder(runs, TASK, pairs.dataset, pairs.label, "x").parent
    return Evaluation(results, folder, tuple(faults))


def _common(pairs: PairSet, seconds: float, device: torch.device) -> Result:
    """Return what the results of all rows share; each row fills in its own."""
    return Result(
        task=TASK,
        title="Fusion quality",
        dataset=pairs.dataset,
        split=pairs.label,
        split_hash=pairs.hash,
        sources_hash=pairs.sources_hash(),
        parts=pairs.parts,
        count=len(pairs.pairs),
        row="",
        columns=tuple(_column(metric) for metric in METRICS.values()),
        values={},
        environment=environment(device),
        seconds=round(seconds, 1),
    )


def _score_pair(pair: Pair, fused: FusedRows, spec: DatasetSpec, device: torch.device) -> dict[str, list[float]]:
    infrared, visible = (_levels(path).to(device) for path in (pair.infrared, pair.visible))
    if infrared.shape != visible.shape:
        raise DataError(f"the two images differ in size: {_size(infrared)} and {_size(visible)}")
    candidates = {
        spec.infrared_label: infrared,
        spec.visible_label: visible,
        "mean": ((infrared + visible) / 2).round(),
        "max": torch.maximum(infrared, visible),
    }
    for row in fused.rows:
        image = _levels(row.files[pair.key]).to(device)
        if image.shape != infrared.shape:
            raise DataError(f"{row.name}: {row.files[pair.key]} is {_size(image)}, its sources {_size(infrared)}")
        candidates[row.name] = image
    reference = prepare(infrared[None], visible[None])
    return {
        name: [float(value) for value in reference.evaluate(image[None]).values()] for name, image in candidates.items()
    }


def _levels(path: Path) -> Tensor:
    """Read a file as whole grey levels, (H, W) float32 in 0..255.

    Luma is taken of whole levels, as OpenCV does it: of values in [0, 1] some halves would round the other way.
    """
    return torch.from_numpy(np.rint(luma(np.rint(read_image(path) * np.float32(255)))))


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _write_row(
    label: str,
    pairs: PairSet,
    scores: Mapping[str, Mapping[str, list[float]]],
    fused: FusedRows,
    runs: Path,
    common: Result,
) -> Result:
    values = np.array([scores[pair.key][label] for pair in pairs.pairs])
    origin = {row.name: row.source for row in fused.rows}
    result = replace(
        common,
        row=label,
        values=dict(zip(METRICS, _nan_statistic(np.nanmean, values), strict=True)),
        deviation=dict(zip(METRICS, _nan_statistic(np.nanstd, values), strict=True)),
        source=dict(origin.get(label, {})),
        baseline=label in {pairs.spec.infrared_label, pairs.spec.visible_label, *NAIVE_ROWS},
        notes=_notes(values),
    )
    folder = result_folder(runs, TASK, pairs.dataset, pairs.label, label)
    write_result(folder, result)
    write_atomic(folder / "per_image.csv", _per_image(pairs, values).encode())
    return result


def _column(metric: Metric) -> Column:
    return Column(metric.name, metric.unit, metric.higher_is_better, metric.digits, metric.title)


def _nan_statistic(statistic: Callable[..., np.ndarray], values: np.ndarray) -> list[float]:
    """Average over the images on which a metric is defined; NaN where there is none."""
    defined = [column[~np.isnan(column)] for column in values.T]
    return [float(statistic(column)) if column.size else float("nan") for column in defined]


def _notes(values: np.ndarray) -> tuple[str, ...]:
    undefined = {name: int(np.isnan(column).sum()) for name, column in zip(METRICS, values.T, strict=True)}
    return tuple(
        f"{name} is not defined on {count} of {len(values)} images, which are too small for its window."
        for name, count in undefined.items()
        if count
    )


def _per_image(pairs: PairSet, values: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "id", *METRICS])
    for pair, row in zip(pairs.pairs, values, strict=True):
        writer.writerow([pair.split, pair.id, *(f"{value:.6f}" for value in row)])
    return text.getvalue()


def _own_row(folder: Path, pairs: PairSet) -> FusedRow:
    """Take the images that ``fuse-dataset`` left in a folder: all of them, as it left them, of these very sources."""
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: its run was stopped; finish it with the same emma-tasks fuse-dataset command")
    manifest = read_manifest(folder)
    if manifest.dataset != pairs.dataset:
        raise ManifestError(f"{folder}: holds images of {manifest.dataset}, expected {pairs.dataset}")
    lost = [
        pair.key
        for pair in pairs.pairs
        if pair.key not in manifest.failures and not is_done(pair, manifest.rows.get(pair.key), folder)
    ]
    if lost:
        raise DataError(
            f"{folder}: {len(lost)} of {len(pairs.pairs)} fused images are missing, or made from other files, "
            f"first {lost[0]}. Make them with: {_fuse_command(folder, pairs, manifest)}"
        )
    files = {pair.key: folder / f"{pair.key}.png" for pair in pairs.pairs}
    source = {
        "method": manifest.method,
        "manifest_sha256": file_sha256(folder / MANIFEST),
        "checkpoint_sha256": manifest.settings.get("checkpoint_sha256"),
    }
    return FusedRow(folder.name, files, source)


def _fuse_command(folder: Path, pairs: PairSet, manifest: Manifest) -> str:
    """Spell the command that brings a folder of fused images up to date."""
    known = declared(pairs.dataset)
    first = pairs.pairs[0]
    where = f"--root {pairs.root}" if known else f"--ir {first.infrared.parent} --vis {first.visible.parent}"
    weights = " --weights FILE" if "checkpoint_sha256" in manifest.settings else ""
    name = f" --name {folder.name}" if folder.name != manifest.method else ""
    dataset = pairs.dataset.removesuffix(SAMPLE_SUFFIX)
    return f"emma-tasks fuse-dataset {dataset} {where} --method {manifest.method}{weights}{name}"


def _foreign_row(name: str, folder: Path, pairs: PairSet) -> FusedRow:
    """Take images made elsewhere; all of them must be there."""
    if not folder.is_dir():
        raise DataError(f"--fused-dir {name}={folder}: no such folder; expected fused images named as the sources")
    flat = len({pair.id for pair in pairs.pairs}) == len(pairs.pairs)
    files = {pair.key: path for pair in pairs.pairs if (path := _fused_file(folder, pair, flat))}
    missing = [pair.key for pair in pairs.pairs if pair.key not in files]
    if missing:
        advice = "a list of the ids that are there can be given with --split-file"
        if not flat:
            advice = f"ids repeat between the parts of {pairs.dataset}, so expected a folder for each part"
        raise DataError(
            f"--fused-dir {name}={folder}: {len(missing)} of {len(pairs.pairs)} fused images are missing, "
            f"first {missing[0]}; {advice}"
        )
    return FusedRow(name, files, {"folder": str(folder)})


def _fused_file(folder: Path, pair: Pair, flat: bool) -> Path | None:
    places = (folder / pair.split, folder) if flat else (folder / pair.split,)
    candidates = (place / f"{pair.id}{suffix}" for place in places for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in candidates if path.exists()), None)
