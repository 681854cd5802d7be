"""Labelled street scenes: an arrangement of things, seen by an infrared and a visible camera.

People and engines are warm: infrared shows them, and at night hardly anything else does. Lamps, signs, road paint,
cones, rails and kerbs are as cold as the road: only visible light shows them. Fog and smoke stop visible light
alone; on hot days the road is as warm as a body and people vanish from infrared. Where no lamp is lit under a clear
night sky, the road mirrors the cold of the sky, and whatever stands on it stands out a little in infrared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emma_core.samples import sensors
from emma_core.samples.canvas import Camera, Canvas
from emma_core.samples.placement import arrange
from emma_core.samples.stage import Climate, Road, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from emma_core.samples.canvas import Floats

CLIMATES: dict[str, Climate] = {
    climate.name: climate
    for climate in (
        Climate("day", night=False, air=17, ground=20, sun=1.0),
        Climate("overcast", night=False, air=11, ground=12, fog=0.003),
        Climate("hot", night=False, air=31.5, ground=33, sun=1.0),
        Climate("smoke", night=False, air=14, ground=16, sun=0.6, smoke=2),
        Climate("mist", night=False, air=8, ground=9, fog=0.06),
        Climate("night", night=True, air=9, ground=11, beam=0.35, tint=(0.85, 1.05, 0.80)),
        Climate("dark", night=True, air=7, ground=8.5, beam=0.15, lamps=0.1, tint=(0.85, 1.05, 0.85)),
        Climate(
            "unlit", night=True, air=7, ground=8.5, beam=0.12, lamps=0.0, skyglow=0.1, chill=4, tint=(0.85, 1.05, 0.85)
        ),
        Climate("rain", night=True, air=12, ground=13, wet=1.0, beam=0.3, fog=0.004, tint=(1.0, 0.95, 1.0)),
        Climate("night fog", night=True, air=8, ground=9, fog=0.035, beam=0.3, tint=(0.95, 0.95, 1.05)),
    )
}
"""Weather by name: light, heat, fog and smoke of a scene."""

_TRIES = 8
_ENOUGH = 14  # visible pixels, at 240 x 320, that a wanted class must have
_SMALLEST = 12  # visible pixels of a labelled thing
_SHOWN = 0.12  # of the outline of a labelled thing that must not be hidden


@dataclass(frozen=True)
class Box:
    """A thing and the columns and rows that its visible pixels span.

    Attributes:
        kind: ``person``, ``car``, ``bus``, ``truck``, ``motorcycle``, ``bike``, ``lamp``, ...
        left: first column.
        top: first row.
        right: one past the last column.
        bottom: one past the last row.
        area: visible pixels.
    """

    kind: str
    left: int
    top: int
    right: int
    bottom: int
    area: int


@dataclass(frozen=True)
class Scene:
    """A rendered scene with its labels.

    Attributes:
        infrared: (H, W), float32 in [0, 1]; hot is bright.
        visible: (H, W, 3), RGB, float32 in [0, 1], gamma-encoded.
        kinds: name of the thing that each number of ``owner`` stands for; number 0 is scenery.
        owner: (H, W), int32, number of the thing that each pixel shows.
        boxes: the labelled things that can be seen.
        climate: name of the weather.
    """

    infrared: Floats
    visible: Floats
    kinds: tuple[str, ...]
    owner: NDArray[np.int32]
    boxes: tuple[Box, ...]
    climate: str

    def mask(self, ids: dict[str, int]) -> NDArray[np.uint8]:
        """Return the class of every pixel, (H, W): ``ids`` by kind, 0 for what it does not name."""
        return np.array([ids.get(kind, 0) for kind in self.kinds], np.uint8)[self.owner]


def render_scene(
    seeds: np.random.SeedSequence,
    climate: str,
    wanted: Sequence[str],
    size: tuple[int, int] = (240, 320),
    reach: float = 1.0,
    running: float = 0.6,
    common_grey: float = 0.24,
) -> Scene:
    """Render one scene; equal arguments give equal scenes.

    Args:
        seeds: source of everything random.
        climate: a key of :data:`CLIMATES`.
        wanted: kinds that must be in it, in order of importance; more of each may appear.
        size: image height and width in pixels, at least 32 each.
        reach: below 1 everything is nearer, and so larger: depths fill this part of their (logarithmic) range.
        running: share of cars and trucks whose engine runs, 0 to 1; the others are cold.
        common_grey: infrared level of the temperature that most of the scene has, in (0, 1).

    Returns:
        The first of a few attempts that shows every wanted kind, else the one that shows most of them.
    """
    least = max(3, round(_ENOUGH * size[0] * size[1] / (240 * 320)))
    best, most = None, -1
    for attempt in seeds.spawn(_TRIES):
        rng = np.random.default_rng(attempt)
        stage = _stage(rng, CLIMATES[climate], size, reach, running)
        arrange(stage, wanted)
        owner = _owners(stage.canvas)
        areas = np.bincount(owner.ravel(), minlength=len(stage.canvas.things))
        seen = {thing.kind for thing, area in zip(stage.canvas.things, areas, strict=True) if area >= least}
        if (shown := len(seen & set(wanted))) > most:
            best, most = (stage, owner), shown
        if shown == len(set(wanted)):
            break
    if best is None:
        raise RuntimeError("no attempt was made")
    return _photograph(*best, common_grey)


def _photograph(stage: Stage, owner: NDArray[np.int32], common_grey: float) -> Scene:
    canvas, climate, rng = stage.canvas, stage.climate, stage.rng
    fields = sensors.look_up(canvas)
    return Scene(
        infrared=sensors.infrared(canvas, fields, climate, rng, common_grey),
        visible=sensors.visible(canvas, fields, climate, rng),
        kinds=tuple(thing.kind for thing in canvas.things),
        owner=owner,
        boxes=_boxes(canvas, owner),
        climate=climate.name,
    )


def _stage(rng: np.random.Generator, climate: Climate, size: tuple[int, int], reach: float, running: float) -> Stage:
    """Choose camera, sun and road."""
    height, width = size
    horizon, vanishing = height * rng.uniform(0.40, 0.47), width * rng.uniform(0.42, 0.58)
    camera = Camera(size, width * rng.uniform(0.90, 1.0), (horizon, vanishing), rng.uniform(1.5, 1.75))
    azimuth, elevation = rng.uniform(-2.2, 2.2), rng.uniform(0.55, 1.0)
    flat = math.cos(elevation)
    sun = (flat * math.sin(azimuth), math.sin(elevation), -flat * math.cos(azimuth))
    lanes = (-rng.uniform(3.4, 5.0), rng.uniform(3.0, 4.4))
    road = Road(*lanes, pavement=rng.uniform(2.6, 4.0), wall=rng.uniform(4.5, 9.0))
    shift = rng.uniform(-1.5, 1.5)
    climate = replace(climate, air=climate.air + shift, ground=climate.ground + shift)
    return Stage(Canvas(camera, sun), climate, road, rng, reach, running)


def _owners(canvas: Canvas) -> NDArray[np.int32]:
    """Return the thing number of every pixel, (H, W)."""
    return np.array([glyph.thing for glyph in canvas.glyphs], np.int32)[sensors.native(canvas.parts)]


def _boxes(canvas: Canvas, owner: NDArray[np.int32]) -> tuple[Box, ...]:
    """Measure the things that can be seen; a rider counts to what he rides as well."""
    boxes = []
    for number, thing in enumerate(canvas.things[1:], start=1):
        riders = [other for other, each in enumerate(canvas.things) if each.carrier == number]
        shown = np.isin(owner, [number, *riders]) if riders else owner == number
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        area = int(shown.sum())
        if area < _SMALLEST or min(np.ptp(rows), np.ptp(columns)) < 2:
            continue
        box = Box(thing.kind, int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1, area)
        if _shown(canvas, thing.low, thing.high, box) >= _SHOWN:
            boxes.append(box)
    return tuple(boxes)


def _shown(canvas: Canvas, low: tuple[float, float], high: tuple[float, float], box: Box) -> float:
    """Return which fraction of the outline, as far as it lies in the image, the visible box covers."""
    height, width = canvas.camera.size
    wide = min(high[0], width) - max(low[0], 0)
    tall = min(high[1], height) - max(low[1], 0)
    return float((box.right - box.left) * (box.bottom - box.top) / max(wide * tall, 1.0))
