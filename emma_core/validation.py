"""How the stages are validated, on pairs that were held out: figures, one score, and a picture."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from emma_core.fuse import fuse_pair
from emma_core.fusers import Fuser
from emma_core.images import pad_reflect
from emma_core.losses import l1
from emma_core.metrics.fusion import PairReference, grey_levels, prepare
from emma_core.training import Validation
from emma_core.training_log import named_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emma_core.datasets import Side
    from emma_core.engine import Engine
    from emma_core.images import FloatImage
    from emma_core.models.ufuser import UFuser
    from emma_core.models.unet import SensingUNet
    from emma_core.patches import Batch, Crops
    from emma_core.scenes import Scene, SceneReader
    from emma_core.stages import Sensing
    from emma_core.training_config import CropConfig

METRICS = ("EN", "SD", "AG", "MI", "VIF", "Qabf")
"""The metrics of the paper's Tables 1 and 2."""

SENSING_ERRORS = ("infrared_l1", "infrared_copy", "visible_l1", "visible_copy")
"""Of the sensing networks, and of the fused image itself, on what the fuser makes."""

SENSING_CROPS = 64
BATCH = 8
PICTURE_ROWS = 4


class SensingValidation:
    """How well a sensing network answers on held-out crops, beside two predictors that know nothing.

    ``l1`` is the network's, ``constant`` that of the best single grey level, ``copy`` that of the fused image itself.
    """

    def __init__(
        self,
        network: SensingUNet,
        side: Side,
        engine: Engine,
        scenes: Sequence[Scene],
        config: CropConfig,
        cut: Callable[..., Crops],
    ) -> None:
        self._network, self._side, self._engine = network, side, engine
        self._cut = partial(cut, scenes, config=replace(config, flips=False, exposure=0.0, gamma=0.0))

    @cached_property
    def _crops(self) -> Batch:
        """The same crops in every validation: (N, 1, S, S) each."""
        crops = self._cut()
        chosen = [crops[number] for number in range(SENSING_CROPS)]
        return {name: torch.stack([crop[name] for crop in chosen]) for name in chosen[0]}

    def __call__(self) -> Validation:
        """Compare on all crops."""
        fused, wanted = self._crops["teacher"], self._crops[self._side]
        with torch.inference_mode(), self._engine.autocast():
            parts = [self._network(part.to(self._engine.device)).float().cpu() for part in torch.split(fused, BATCH)]
        sensed = torch.cat(parts)
        values = {
            "l1": l1(sensed, wanted).item(),
            "constant": l1(torch.full_like(wanted, float(wanted.median())), wanted).item(),
            "copy": l1(fused, wanted).item(),
        }
        rows = [[image[0].numpy() for image in row] for row in zip(fused, wanted, sensed, strict=True)]
        picture = grid(rows[:: SENSING_CROPS // PICTURE_ROWS])
        return Validation(values, -values["l1"], picture, sensing_text(**values))


class FuserValidation:
    """How the fuser does on whole held-out pairs: the paper's six metrics, averaged over the pairs.

    ``score`` is the geometric mean of their ratios to those of the pixel-wise maximum, which is 1: metrics of any
    unit count alike, and the rival is the naive one that is hardest to beat. A metric that is undefined does not count,
    as VIF of images that are smaller than its windows.

    With sensing networks, ``infrared_l1`` and ``visible_l1`` say how far those are off on the fuser's own images,
    which are not the teachers' that they were trained on; ``infrared_copy`` and ``visible_copy`` are of the fused image
    itself.
    """

    def __init__(
        self,
        fuser: UFuser,
        sensing: Sensing | None,
        engine: Engine,
        scenes: Sequence[Scene],
        reader: SceneReader,
    ) -> None:
        self._network, self._sensing, self._engine = fuser, sensing, engine
        self._scenes, self._reader = scenes, reader
        self._fuser = Fuser("EMMA", self._fuse, stride=fuser.stride, min_size=fuser.min_size, device=engine.device)

    def __call__(self) -> Validation:
        """Fuse and score all pairs."""
        found: list[list[float]] = []
        errors: list[list[float]] = []
        rows: list[list[FloatImage]] = []
        for infrared, visible, reference in self._pairs:
            fused = fuse_pair(infrared, visible, self._fuser, colour_from="none")
            sensed = self._sensed(fused)
            found.append(_scores(reference, fused))
            errors.append(_sensing_errors(fused, (infrared, visible), sensed))
            if len(rows) < PICTURE_ROWS:
                rows.append([infrared, visible, fused, *sensed])
        means = _means(found)
        score = _ratio(means, self._maximum)
        values = dict(zip(METRICS, means, strict=True))
        sensing = dict(zip(SENSING_ERRORS, _means(errors), strict=True)) if self._sensing else {}
        text = f"{named_values(values)}, {fuser_text(score)}{_own_images_text(**sensing) if sensing else ''}"
        return Validation({**values, **sensing}, score, grid(rows), text)

    @cached_property
    def _pairs(self) -> list[tuple[FloatImage, FloatImage, PairReference]]:
        pairs = []
        for scene in self._scenes:
            infrared, visible = (image.astype(np.float32) / np.float32(255) for image in self._reader(scene)[:2])
            levels = (grey_levels(torch.from_numpy(image))[None] for image in (infrared, visible))
            pairs.append((infrared, visible, prepare(*levels)))
        return pairs

    @cached_property
    def _maximum(self) -> list[float]:
        """The metrics of the pixel-wise maximum."""
        return _means([_scores(reference, np.maximum(*pair)) for *pair, reference in self._pairs])

    def _sensed(self, fused: FloatImage) -> list[FloatImage]:
        """Compute what the sensors would have seen: their pictures tell whether they are good enough to learn from."""
        if self._sensing is None:
            return []
        padded = torch.from_numpy(np.ascontiguousarray(pad_reflect(fused, self._sensing.stride)))[None, None]
        with torch.inference_mode(), self._engine.autocast():
            sensed = self._sensing(padded.to(self._engine.device))
        return [image[0, 0, : fused.shape[0], : fused.shape[1]].float().cpu().numpy() for image in sensed]

    def _fuse(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), self._engine.autocast():
            fused: torch.Tensor = self._network(*(side.to(self._engine.device) for side in (infrared, visible)))
            return fused.float().cpu()


def sensing_text(l1: float, constant: float, copy: float) -> str:
    """Say how far a sensing network is off, beside the predictors that know nothing; all in [0, 1]."""
    return (
        f"mean absolute error {l1:.3f} ({255 * l1:.1f} grey levels); "
        f"a constant grey has {constant:.3f}, the fused image itself {copy:.3f}"
    )


def _ratio(means: Sequence[float], rivals: Sequence[float]) -> float:
    """Return the geometric mean of the ratios to what a rival reaches, where that is defined and positive."""
    both = [pair for pair in zip(means, rivals, strict=True) if math.isfinite(pair[1]) and pair[1] > 0]
    if not both or not all(value > 0 for value, _ in both):
        return 0.0
    return math.exp(sum(math.log(value / rival) for value, rival in both) / len(both))


def fuser_text(score: float) -> str:
    """Say what a score of :class:`FuserValidation` is measured by."""
    return f"score {score:.4g} (pixel-wise maximum: 1)"


def _own_images_text(infrared_l1: float, infrared_copy: float, visible_l1: float, visible_copy: float) -> str:
    """Say how well the sensing networks answer the fuser's own images, beside these images themselves."""
    infrared, visible = f"{infrared_l1:.3f} (copy: {infrared_copy:.3f})", f"{visible_l1:.3f} (copy: {visible_copy:.3f})"
    return f"; sensing networks on these images: infrared {infrared}, visible {visible}"


def grid(rows: Sequence[Sequence[FloatImage]], gap: int = 2) -> FloatImage:
    """Lay grey images, (H, W) in [0, 1], out in rows and columns, smaller ones with white around them."""
    height, width = (max(image.shape[axis] for row in rows for image in row) for axis in (0, 1))

    def cell(image: FloatImage) -> FloatImage:
        border = [(0, height - image.shape[0] + gap), (0, width - image.shape[1] + gap)]
        return np.pad(image, border, constant_values=1.0)

    whole: FloatImage = np.concatenate([np.concatenate([cell(image) for image in row], 1) for row in rows], 0)
    return whole


def _scores(reference: PairReference, fused: FloatImage) -> list[float]:
    levels = grey_levels(torch.from_numpy(np.ascontiguousarray(fused)))[None]
    return [float(value) for value in reference.evaluate(levels, METRICS).values()]


def _sensing_errors(fused: FloatImage, seen: Sequence[FloatImage], sensed: Sequence[FloatImage]) -> list[float]:
    """Compute :data:`SENSING_ERRORS` of one pair; none without sensing networks."""
    pairs = zip(sensed, seen, strict=True) if sensed else ()
    return [float(np.abs(image - wanted).mean()) for answer, wanted in pairs for image in (answer, fused)]


def _means(rows: list[list[float]]) -> list[float]:
    """Average each metric over the pairs on which it is defined."""
    return [float(np.nanmean(column)) if not np.isnan(column).all() else math.nan for column in np.array(rows).T]
