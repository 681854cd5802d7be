"""Scoring fused images: every row on the same pairs, beside each source alone and the naive rules.

Sources and fused images are read back from disk and compared as grey levels, so a row says what a person gets
who opens the files. One row is one folder: ``runs/evaluate/<dataset>/<split>/<row>/{result.json,per_image.csv}``;
beside them, what the fused rows differ in from the others (:mod:`emma_core.paired`).

:func:`evaluate_dataset` is the command. A task that measures images too (``medical``) takes its two halves:
:func:`score_pairs` computes figures of every pair, :func:`write_scores` writes the rows of a table.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emma_core.errors import DataError
from emma_core.fuse import fuse_pair, read_pair
from emma_core.fusers import load_fuser
from emma_core.images import luma, read_image, require_writable, size_text, to_8bit, write_atomic
from emma_core.metrics.fusion import METRICS, prepare
from emma_core.paired import write_differences
from emma_core.pairs import Fault, Pair, PairSet
from emma_core.results import NAIVE_ROWS, Column, Result, blank_result, result_folder, table_folder, write_result
from emma_core.rows import narrow_note
from emma_core.runtime import environment, map_images, resolve_device
from emma_core.seen import seen_note
from emma_core.text import counted, spreadsheet_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from emma_core.comparisons import Comparison
    from emma_core.datasets import DatasetSpec
    from emma_core.fusers import Fuser
    from emma_core.images import FloatImage
    from emma_core.rows import InputRow

TASK = "evaluate"

_NO_ENTROPY = 1e-6  # bits; two grey levels in a megapixel have 2e-5

Scorer = Callable[[Tensor], list[float]]
"""From a fused image, grey levels (H, W), to a figure per column."""


@dataclass(frozen=True)
class Measures:
    """What a table measures of each image.

    Attributes:
        columns: of the table.
        prepare: from the grey levels of infrared and visible, (H, W) float32 in 0..255, to the scorer of their images.
    """

    columns: tuple[Column, ...]
    prepare: Callable[[Tensor, Tensor], Scorer]


@dataclass(frozen=True)
class Scores:
    """Figures of every row on the same pairs.

    Attributes:
        pairs: those that were scored.
        columns: what was measured.
        values: by row, in the order of the table: (pairs, columns), NaN where a figure is not defined.
        sources: where the images of a row come from, for rows that are read from files.
        faults: pairs that no row was scored on, with reasons.
        device: where it was computed.
        seconds: wall-clock time.
    """

    pairs: PairSet
    columns: tuple[Column, ...]
    values: Mapping[str, NDArray[np.float64]]
    sources: Mapping[str, Mapping[str, str | None]]
    faults: tuple[Fault, ...]
    device: torch.device
    seconds: float

    def part(self, split: str, label: str) -> Scores:
        """Keep the pairs of one split, under a label of their own."""
        chosen = np.array([pair.split == split for pair in self.pairs.pairs])
        kept = tuple(pair for pair in self.pairs.pairs if pair.split == split)
        values = {row: figures[chosen] for row, figures in self.values.items()}
        return replace(self, pairs=replace(self.pairs, pairs=kept, label=label), values=values)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_dataset` leaves.

    Attributes:
        results: one a row, as written.
        folder: the folder of the rows.
        differences: of the fused rows from the others, as written.
        faults: pairs that no row was scored on, with reasons.
    """

    results: tuple[Result, ...]
    folder: Path
    differences: tuple[Comparison, ...]
    faults: tuple[Fault, ...]


def fusion_measures(names: Iterable[str] = tuple(METRICS)) -> Measures:
    """Measure by the fusion metrics of these names, keys of :data:`emma_core.metrics.fusion.METRICS`."""
    chosen = [METRICS[name] for name in names]

    def reference(infrared: Tensor, visible: Tensor) -> Scorer:
        pair = prepare(infrared[None], visible[None])
        wanted = [metric.name for metric in chosen]
        return lambda fused: [float(value) for value in pair.evaluate(fused[None], wanted).values()]

    columns = (Column(each.name, each.unit, each.higher_is_better, each.digits, each.title) for each in chosen)
    return Measures(tuple(columns), reference)


def row_labels(spec: DatasetSpec, rows: Sequence[InputRow]) -> list[str]:
    """Name all rows of the table in order: sources and naive rules, which are computed, then those from files."""
    return [spec.infrared_label, spec.visible_label, *NAIVE_ROWS, *(row.name for row in rows)]


def evaluate_dataset(
    pairs: PairSet,
    rows: Sequence[InputRow],
    runs: Path,
    *,
    device: str = "auto",
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Evaluation:
    """Score every row on the same pairs, write one result a row, and what fused rows differ in from the others.

    A pair of which a source or any fused image cannot be used is left out of all rows, and named.

    Args:
        pairs: the pairs.
        rows: those that are read from files, from :func:`emma_core.rows.fused_rows` without naive ones; IR, VI, mean
            and max are always computed.
        runs: where results go.
        device: where to compute.
        on_pair: called after each pair, for a progress bar.

    Returns:
        The results in the order of the table, what they differ in, and the faults.

    Raises:
        DataError: no pair could be scored.
        OSError: results cannot be written; told before the work.
    """
    folder = table_folder(runs, TASK, pairs.dataset, pairs.label)
    require_writable(folder)
    scores = score_pairs(pairs, rows, fusion_measures(), device=device, on_pair=on_pair)
    results = write_scores(scores, runs, task=TASK, title="Fusion quality", notes=narrow_note(pairs))
    return Evaluation(results, folder, write_differences(folder, results, scores), scores.faults)


def score_pairs(
    pairs: PairSet,
    rows: Sequence[InputRow],
    measures: Measures,
    *,
    device: str = "auto",
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Scores:
    """Score every row on the same pairs; arguments, faults and errors as for :func:`evaluate_dataset`."""
    begun = time.perf_counter()
    place = resolve_device(device)
    scored: list[Pair] = []
    # One block of memory from the start: an array a pair would land between the large blocks that scoring takes and
    # gives back, and leave holes in the heap that no such block fits in again.
    figures = np.empty((len(row_labels(pairs.spec, rows)), len(pairs.pairs), len(measures.columns)))
    faults = list(pairs.faults)

    def score(pair: Pair) -> NDArray[np.float64] | Fault:
        try:
            return _score_pair(pair, rows, pairs.spec, measures, place)
        except DataError as error:
            return Fault(pair.split, pair.id, str(error))

    for pair, outcome in zip(pairs.pairs, map_images(score, pairs.pairs, place), strict=True):
        if isinstance(outcome, Fault):
            faults.append(outcome)
        else:
            figures[:, len(scored)] = outcome
            scored.append(pair)
        on_pair(pair)
    if not scored:
        raise DataError(f"{pairs.dataset}: none of {len(pairs.pairs)} pairs could be scored; first: {faults[0]}")
    return Scores(
        pairs=replace(pairs, pairs=tuple(scored), faults=()),
        columns=measures.columns,
        values=dict(zip(row_labels(pairs.spec, rows), figures[:, : len(scored)], strict=True)),
        sources={row.name: row.source for row in rows},
        faults=tuple(faults),
        device=place,
        seconds=time.perf_counter() - begun,
    )


def write_scores(
    scores: Scores,
    runs: Path,
    *,
    task: str,
    title: str,
    recipe: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> tuple[Result, ...]:
    """Write one result and one table of single images a row.

    Args:
        scores: of all rows.
        runs: where results go: ``<task>/<dataset>/<label of the pairs>/<row>``.
        task: the command that measured.
        title: of the table.
        recipe: what must agree between rows that are compared.
        notes: sentences a reader needs beside the figures.

    Returns:
        The results, in the order of the table.
    """
    common = replace(
        blank_result(scores.pairs, task, title, scores.columns),
        recipe=dict(recipe or {}),
        notes=(*notes, *_constant_note(scores)),
        environment=environment(scores.device),
        seconds=round(scores.seconds, 1),
    )
    return tuple(_write_row(label, scores, common, runs) for label in scores.values)


def _constant_note(scores: Scores) -> tuple[str, ...]:
    """Say on how many images a source is constant, which has no entropy: VIF rewards every row for it."""
    names = [column.name for column in scores.columns]
    if not {"EN", "VIF"} <= set(names):
        return ()
    spec = scores.pairs.spec
    entropy = [scores.values[label][:, names.index("EN")] for label in (spec.infrared_label, spec.visible_label)]
    count = int((np.minimum(*entropy) < _NO_ENTROPY).sum())
    note = f"On {counted(count, 'image')} a source is constant; VIF counts it as kept in full, with 1."
    return (note,) if count else ()


def read_levels(path: Path) -> Tensor:
    """Read a file as whole grey levels, (H, W) float32 in 0..255.

    Raises:
        ImageError: the file cannot be read.
    """
    return _levels(read_image(path))


def _levels(image: FloatImage) -> Tensor:
    """Turn an image in [0, 1] into the grey levels of its 8-bit file.

    Luma is taken of whole levels, as OpenCV does it: of values in [0, 1] some halves would round the other way.
    """
    return torch.from_numpy(np.rint(luma(to_8bit(image).astype(np.float32))))


@cache
def _rule(name: str) -> Fuser:
    return load_fuser(name, device="cpu")


def row_images(
    pair: Pair, rows: Sequence[InputRow], spec: DatasetSpec, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Read the images of one pair: sources, naive rules, which are computed, and those of the rows from files.

    A naive rule gives what ``fuse-dataset`` would have written: like all other fused rows an 8-bit image in the
    colours of a source, whose luma is rounded once more.

    Args:
        pair: the pair.
        rows: those that are read from files, none of a naive rule.
        spec: of the data set.
        device: where to put them.

    Returns:
        Grey levels, (H, W) float32 in 0..255, by row.

    Raises:
        DataError: a file cannot be read, or has another size.
    """
    infrared, visible = read_pair(pair)
    naive = {rule: fuse_pair(infrared, visible, _rule(rule), colour_from=pair.colour_from) for rule in NAIVE_ROWS}
    computed = {spec.infrared_label: infrared, spec.visible_label: visible, **naive}
    images = {label: _levels(image).to(device) for label, image in computed.items()}
    for row in rows:
        image = read_levels(row.files[pair.key]).to(device)
        if image.shape != infrared.shape[:2]:
            found, wanted = size_text(image.shape), size_text(infrared.shape)
            raise DataError(f"{row.name}: {row.files[pair.key]} is {found}, its sources {wanted}")
        images[row.name] = image
    return images


def _score_pair(
    pair: Pair, rows: Sequence[InputRow], spec: DatasetSpec, measures: Measures, device: torch.device
) -> NDArray[np.float64]:
    """Compute the figures of a pair, (rows, columns), in the order of :func:`row_labels`."""
    images = row_images(pair, rows, spec, device)
    scorer = measures.prepare(images[spec.infrared_label], images[spec.visible_label])
    return np.array([scorer(images[label]) for label in row_labels(spec, rows)])


def _write_row(label: str, scores: Scores, common: Result, runs: Path) -> Result:
    values = scores.values[label]
    spec, source = scores.pairs.spec, dict(scores.sources.get(label, {}))
    names = [column.name for column in scores.columns]
    result = replace(
        common,
        row=label,
        values=dict(zip(names, _nan_statistic(np.nanmean, values), strict=True)),
        deviation=dict(zip(names, _nan_statistic(np.nanstd, values), strict=True)),
        source=source,
        baseline=label in {spec.infrared_label, spec.visible_label, *NAIVE_ROWS},
        notes=(
            *common.notes,
            *_precision_note(label, source),
            *seen_note(label, source, scores.pairs),
            *_notes(names, values),
        ),
    )
    folder = result_folder(runs, common.task, common.dataset, common.split, label)
    write_result(folder, result)
    write_atomic(folder / "per_image.csv", _per_image(scores.pairs, names, values).encode())
    return result


def _nan_statistic(statistic: Callable[..., np.ndarray], values: np.ndarray) -> list[float]:
    """Average over the images on which a metric is defined; NaN where there is none."""
    defined = [column[~np.isnan(column)] for column in values.T]
    return [float(statistic(column)) if column.size else float("nan") for column in defined]


def _precision_note(label: str, source: Mapping[str, str | None]) -> tuple[str, ...]:
    """Say in which number format a network made the images of a row: it changes the figures, and the row's name not."""
    return (f"{label}: fused in {source['precision']}.",) if source.get("precision") else ()


def _notes(names: Sequence[str], values: np.ndarray) -> tuple[str, ...]:
    undefined = {name: int(np.isnan(column).sum()) for name, column in zip(names, values.T, strict=True)}
    return tuple(
        f"{name} is not defined on {count} of {len(values)} images, which are too small or too flat for it."
        for name, count in undefined.items()
        if count
    )


def _per_image(pairs: PairSet, names: Sequence[str], values: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "id", *names])
    for pair, row in zip(pairs.pairs, values, strict=True):
        writer.writerow([spreadsheet_cell(pair.split), spreadsheet_cell(pair.id), *(f"{value:.6f}" for value in row)])
    return text.getvalue()
