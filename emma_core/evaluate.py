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
    DatasetSpec,
    Fault,
    Pair,
    PairSet,
)
from emma_core.errors import DataError
from emma_core.images import luma, read_image, write_atomic
from emma_core.metrics.fusion import METRICS, Metric, prepare
from emma_core.results import NAIVE_ROWS, Column, Result, result_folder, write_result
from emma_core.runtime import environment, map_images, resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from emma_core.rows import InputRow

TASK = "evaluate"


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


def row_labels(spec: DatasetSpec, rows: Sequence[InputRow]) -> list[str]:
    """Name all rows of the table in order: sources and naive rules, which are computed, then those from files."""
    names = [row.name for row in rows]
    naive = [spec.infrared_label, spec.visible_label, *NAIVE_ROWS]
    return [name for name in naive if name not in names] + names


def evaluate_dataset(
    pairs: PairSet,
    rows: Sequence[InputRow],
    runs: Path,
    *,
    device: str = "auto",
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Evaluation:
    """Score every row on the same pairs and write one result a row.

    A pair of which a source or any fused image cannot be used is left out of all rows, and named.

    Args:
        pairs: the pairs.
        rows: those that are read from files, see :mod:`emma_core.rows`; IR, VI, mean and max are computed.
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
            return _score_pair(pair, rows, pairs.spec, place)
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
    results = tuple(_write_row(label, subset, scores, rows, runs, common) for label in row_labels(pairs.spec, rows))
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


def _score_pair(
    pair: Pair, rows: Sequence[InputRow], spec: DatasetSpec, device: torch.device
) -> dict[str, list[float]]:
    infrared, visible = (_levels(path).to(device) for path in (pair.infrared, pair.visible))
    if infrared.shape != visible.shape:
        raise DataError(f"the two images differ in size: {_size(infrared)} and {_size(visible)}")
    candidates = {
        spec.infrared_label: infrared,
        spec.visible_label: visible,
        "mean": ((infrared + visible) / 2).round(),
        "max": torch.maximum(infrared, visible),
    }
    for row in rows:
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
    rows: Sequence[InputRow],
    runs: Path,
    common: Result,
) -> Result:
    values = np.array([scores[pair.key][label] for pair in pairs.pairs])
    origin = {row.name: row.source for row in rows}
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
