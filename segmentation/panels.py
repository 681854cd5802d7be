"""One test image as the report shows it: what each row sees, what is found in it, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segmentation.labels import UNLABELLED, colour_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase
    from matplotlib.patches import Patch
    from numpy.typing import NDArray

    from emma_core.images import FloatImage
    from segmentation.labels import Mask, SegmentationSpec

_DARK, _BRIGHT = 0.6, 0.95  # what black and white become behind a mask: dark colours are seen on light grey alone
_FAINT = 0.3  # opacity of classes that a picture is not about
_OUTLINE = "#ff1493"  # a pink that no palette is likely to have


@dataclass(frozen=True)
class View:
    """What one row makes of a test image.

    Attributes:
        name: of the row.
        image: what it sees, (H, W) or (H, W, 3) float32 in [0, 1]; None where that is not at hand.
        mask: what it finds, (H, W) ids.
        score: what that is worth, in words.
    """

    name: str
    image: FloatImage | None
    mask: Mask
    score: str


def draw_image(
    figure: FigureBase,
    views: Sequence[View],
    truth: Mask,
    scene: FloatImage,
    spec: SegmentationSpec,
    focus: int | None = None,
) -> None:
    """Draw one test image into a figure: above what each row sees, below what it finds, and the truth.

    Args:
        figure: to draw into.
        views: of the rows.
        truth: the mask that they are held against, (H, W) ids.
        scene: the image behind the truth, and behind masks of rows whose own is not at hand.
        spec: the label set.
        focus: id of the class that the picture is about: the others are faint, and its true outline is drawn.
    """
    panels = figure.subplots(2, len(views) + 1)
    for (above, below), view in zip(panels.T, views, strict=False):
        _show(above, view.image, view.name)
        _show(below, paint(view.mask, scene if view.image is None else view.image, spec, focus), view.score)
    _show(panels[1, -1], paint(truth, scene, spec, focus), spec.truth)
    if focus is not None:
        for below in panels[1]:
            _outline(below, truth == focus)
    _legend(panels[0, -1], np.unique([*(view.mask for view in views), truth]), spec, focus)


def paint(mask: Mask, image: FloatImage, spec: SegmentationSpec, focus: int | None = None) -> FloatImage:
    """Paint a mask over a pale grey image.

    Args:
        mask: (H, W) ids; the background stays the image, what is not labelled becomes white.
        image: (H, W) or (H, W, 3) float32 in [0, 1].
        spec: the label set.
        focus: id of the class that stays strong; None: all.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    opacity = np.full(256, 1 if focus is None else _FAINT, np.float32)
    opacity[[0, UNLABELLED]] = 0, 1
    if focus is not None:
        opacity[focus] = 1
    grey = image if image.ndim == 2 else image.mean(axis=2)
    pale = (_DARK + (_BRIGHT - _DARK) * np.sqrt(grey))[..., None]  # the root shows what is there at night
    share = opacity[mask][..., None]
    painted: FloatImage = (share * colour_mask(mask, spec.palette) + (1 - share) * pale).astype(np.float32)
    return painted


def _show(axes: Axes, image: FloatImage | None, title: str) -> None:
    axes.set_axis_off()
    if image is not None:
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)


def _outline(axes: Axes, there: NDArray[np.bool_]) -> None:
    """Draw a line around what is true; single pixels and whole images have one, too."""
    padded = np.pad(there.astype(float), 1)
    rows, columns = (np.arange(-1, side + 1) for side in there.shape)
    axes.contour(columns, rows, padded, levels=[0.5], colors=_OUTLINE, linewidths=0.8)


def _legend(axes: Axes, ids: NDArray[np.integer], spec: SegmentationSpec, focus: int | None) -> None:
    """Name the colours that a picture has."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(
            facecolor=_colour(spec.palette[number]),
            alpha=1 if focus in {None, number} else _FAINT,
            label=spec.classes[number],
        )
        for number in map(int, ids)
        if 0 < number < len(spec.classes)
    ]
    if UNLABELLED in ids:
        handles.append(Patch(facecolor="white", edgecolor="grey", label="not scored"))
    if focus is not None:
        handles.append(Line2D([], [], color=_OUTLINE, linewidth=0.8, label=f"{spec.classes[focus]}, {spec.truth}"))
    axes.legend(handles=handles, loc="center left", frameon=False, fontsize=9)
    axes.set_axis_off()


def _colour(levels: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = levels
    return red / 255, green / 255, blue / 255
