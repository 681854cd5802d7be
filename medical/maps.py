"""Pictures of what survives: for the worst, a middling and the best pair of a modality, the edges of each scan.

The worst pair is that in which the fused image keeps least of one of its scans; none is chosen by eye.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emma_core.evaluate import row_images
from emma_core.images import read_image
from emma_core.metrics.detail import detail_strength, detail_survival, survival_map
from emma_core.pictures import TaskPicture, write_index, write_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

    from emma_core.evaluate import Scores
    from emma_core.images import FloatImage
    from emma_core.pairs import Pair
    from emma_core.rows import InputRow

GROUP = "What survives of each scan"

_LOST, _KEPT = np.array([1.0, 0.45, 0.05], np.float32), np.array([0.25, 0.65, 1.0], np.float32)
_BRIGHT = 0.99  # quantile of the strength that is shown at full brightness
_GAMMA = 0.6  # lifts faint edges


def write_maps(scores: Scores, rows: Sequence[InputRow], shown: str, folder: Path) -> list[TaskPicture]:
    """Write a picture each of the worst, a middling and the best pair.

    Args:
        scores: of one modality; the last two columns are the detail of the MRI and of the other scan.
        rows: those that are read from files.
        shown: the row to judge the pairs by, and to show.
        folder: for the pictures.

    Returns:
        What was written; nothing where no pair has detail.
    """
    weaker = scores.values[shown][:, -2:].min(axis=1)
    ranking = [int(place) for place in np.argsort(weaker) if np.isfinite(weaker[place])]
    chosen = dict.fromkeys([0, len(ranking) // 2, len(ranking) - 1]) if ranking else {}
    part = scores.pairs.pairs[0].split
    pictures = []
    for rank in chosen:
        pair = scores.pairs.pairs[ranking[rank]]
        caption = (
            f"{part}, pair {pair.id}: number {rank + 1} of {len(ranking)} by how much {shown} keeps of the scan that "
            "loses more. Edges of each scan are blue where they arrive in the image at the top and orange where they "
            "are lost; bright edges are strong. Figures: share that survives."
        )
        picture = TaskPicture(f"detail-{rank + 1:04d}.png", caption, GROUP, wide=True)
        pictures.append(write_picture(folder, picture, _panels(pair, rows, shown, scores)))
    write_index(folder, pictures)
    return pictures


def paint_survival(source: Tensor, fused: Tensor) -> FloatImage:
    """Paint the edges of a source by what becomes of them: grey levels (H, W) each, to (H, W, 3) in [0, 1]."""
    share = survival_map(source[None], fused[None])[0].cpu().numpy()[..., None]
    strength = detail_strength(source[None])[0].cpu().numpy()
    full = float(np.quantile(strength, _BRIGHT)) or float(strength.max()) or 1.0
    brightness = np.clip(strength / full, 0, 1)[..., None] ** _GAMMA
    painted: FloatImage = ((_LOST + share * (_KEPT - _LOST)) * brightness).astype(np.float32)
    return painted


def _panels(pair: Pair, rows: Sequence[InputRow], shown: str, scores: Scores) -> Figure:
    """Draw images above their maps: the two scans, the maximum, and the row that is shown."""
    spec = scores.pairs.spec
    images = row_images(pair, rows, spec)
    sources = (("MRI", spec.visible_label), (pair.split.removeprefix("MRI-"), spec.infrared_label))
    columns = (*sources, ("max", "max"), (shown, shown))  # two titles may be one: scans of two MRI sequences
    panels = [[(title, _in_colour(_as_seen(name, pair, rows, images))) for title, name in columns]]
    for source, scan in sources:
        levels = images[scan]
        shares = [float(detail_survival(levels[None], images[name][None])) for _, name in columns]
        maps = [paint_survival(levels, images[name]) for _, name in columns]
        panels.append([(f"{source} detail {share:.2f}", painted) for share, painted in zip(shares, maps, strict=True)])
    return _tiled(panels)


def _tiled(panels: Sequence[Sequence[tuple[str, FloatImage]]]) -> Figure:
    """Lay titled images of one size, (H, W, 3), out in rows; one plot of all is ten times faster than one of each."""
    from matplotlib.figure import Figure

    height, width = panels[0][0][1].shape[:2]
    top, side = max(height // 9, 1), max(width // 40, 1)
    margins = ((top, 0), (0, side), (0, 0))
    lines = [np.hstack([np.pad(image, margins, constant_values=1) for _, image in line]) for line in panels]
    figure = Figure(figsize=(2.4 * len(panels[0]), 2.4 * len(panels) * (height + top) / (width + side)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.vstack(lines), aspect="auto")
    axes.set_axis_off()
    for row, line in enumerate(panels):
        for column, (title, _) in enumerate(line):
            place = column * (width + side) + width / 2, row * (height + top) + 0.8 * top
            axes.text(*place, title, ha="center", va="baseline", fontsize=11)
    return figure


def _in_colour(image: FloatImage) -> FloatImage:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _as_seen(name: str, pair: Pair, rows: Sequence[InputRow], images: Mapping[str, Tensor]) -> FloatImage:
    """Return an image as its file shows it, in colour; one that is computed has grey levels only."""
    files = {row.name: row.files[pair.key] for row in rows}
    if name in files:
        return read_image(files[name])
    grey: FloatImage = (images[name].numpy() / 255).astype(np.float32)
    return grey
