"""The street: road, kerbs, paint, and what stands there as cold as the ground: lamps, signs, cones, rails."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from emma_core.samples.canvas import Light, Surface
from emma_core.samples.stage import Spot, ellipse, flat, limb, rectangle, scaled, wall

if TYPE_CHECKING:
    from collections.abc import Callable

    from emma_core.samples.canvas import Colour
    from emma_core.samples.stage import Stage

    Item = tuple[float, Callable[[], object]]

FAR = 160.0  # metres; the road ends here
_NEAREST = 1.0
_REACH = 48.0  # metres; what farther street lamps light up is a few pixels
_WHITE: Colour = (0.55, 0.55, 0.53)
_YELLOW: Colour = (0.50, 0.33, 0.04)
_GLOWS: tuple[Colour, ...] = ((1.0, 0.72, 0.38), (0.95, 1.0, 0.82), (1.0, 0.95, 0.85))


def ground(stage: Stage) -> None:
    """Paint the ground: verges, pavements and road, with cracks and patches that both cameras see a little."""
    canvas, climate, road = stage.canvas, stage.climate, stage.road
    verge = Surface((0.055, 0.075, 0.03), climate.air - 1, texture="leaves", contrast=0.6, warmth=1.2)
    canvas.paint(flat(-150, _NEAREST, 150, 2000), verge)
    slabs = Surface((0.17, 0.16, 0.145), climate.ground - 0.6, texture="slabs", contrast=0.35, warmth=0.6)
    canvas.paint(flat(road.left - road.pavement, _NEAREST, road.right + road.pavement, FAR), slabs)
    shade = stage.uniform(0.055, 0.10)
    grey: Colour = (shade, shade, shade * 1.03)
    asphalt = Surface(grey, climate.ground, texture="asphalt", contrast=0.40, warmth=0.7)
    canvas.paint(flat(road.left, _NEAREST, road.right, FAR), asphalt)
    for _ in range(int(stage.rng.integers(1, 4))):
        x, z = stage.uniform(road.left, road.right - 1.5), stage.uniform(5, 25)
        patch = Surface(scaled(grey, stage.uniform(0.6, 0.85)), climate.ground + 0.3, texture="asphalt", contrast=0.3)
        canvas.paint(flat(x, z, x + stage.uniform(0.8, 2), z + stage.uniform(2, 6)), patch)


def markings(stage: Stage) -> None:
    """Paint lane lines, edge lines and sometimes a crossing: seen in visible light, absent in infrared."""
    canvas, road = stage.canvas, stage.road
    white, yellow = stage.painted(_WHITE), stage.painted(_YELLOW)
    middle = (road.left + road.right) / 2
    if stage.chance(0.6):
        canvas.paint([flat(middle - 0.08, z, middle + 0.08, z + 3) for z in np.arange(2, 90, 7.0)], white)
    else:
        canvas.paint([flat(middle + d, _NEAREST, middle + d + 0.12, 120) for d in (-0.2, 0.08)], yellow)
    canvas.paint([flat(x, _NEAREST, x + 0.14, 120) for x in (road.left + 0.35, road.right - 0.49)], white)
    if stage.chance(0.45):
        z = stage.uniform(7, 14)
        stripes = np.arange(road.left + 0.5, road.right - 0.8, 1.0)
        canvas.paint([flat(x, z, x + 0.5, z + 3.0) for x in stripes], white)
    elif stage.chance(0.5):
        x, z = middle + (road.right - middle) / 2, stage.uniform(6, 10)
        head = np.array([(x - 0.45, 0, z + 2), (x + 0.45, 0, z + 2), (x, 0, z + 4)])
        canvas.paint([flat(x - 0.1, z, x + 0.1, z + 2.0), head], white)


def kerbs(stage: Stage) -> list[Item]:
    """Return the two kerbs as items to be painted: stone edges of the colour of neither road nor pavement."""
    number = {side: stage.canvas.thing("curve") for side in (-1, 1)}
    high = 0.16
    striped = stage.chance(0.3)
    stone = stage.matt((0.27, 0.26, 0.245), texture="worn", contrast=0.3)
    paint = stage.painted(_YELLOW, 1.5)
    steps = [1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 16.0, 21.0, 28.0, 40.0]

    def segment(side: int, z0: float, z1: float, surface: Surface) -> None:
        x = stage.road.left if side < 0 else stage.road.right
        stage.canvas.paint(flat(x, z0, x + side * 0.3, z1, high), surface, number[side])
        stage.canvas.paint(wall(x, z0, x, z1, 0.0, high), surface, number[side])

    items: list[Item] = []
    for side in (-1, 1):
        for index, (z0, z1) in enumerate(pairwise(steps)):
            surface = paint if striped and index % 2 else stone
            items.append((z1, partial(segment, side, z0, z1, surface)))
    return items


def street_lamp(stage: Stage, x: float, z: float) -> None:
    """Draw a street lamp that leans over the road; at night it lights a pool."""
    canvas, climate = stage.canvas, stage.climate
    high, reach = stage.uniform(5.0, 6.5), -math.copysign(1.3, x)
    steel = Surface((0.16, 0.17, 0.17), climate.air, contrast=0.1)
    spot = Spot(x, z)
    canvas.paint(spot.put(limb((0, 0), (0, high), 0.09, 0.06)), steel)
    canvas.paint(spot.put(limb((0, high), (reach, high + 0.25), 0.05, 0.04)), steel)
    glow = _GLOWS[int(stage.rng.integers(len(_GLOWS)))] if climate.night else (0.0, 0.0, 0.0)
    head = Surface((0.4, 0.4, 0.4), climate.air + 1, scaled(glow, 9.0), contrast=0.0)
    canvas.paint(spot.put(limb((reach * 0.75, high + 0.18), (reach * 1.35, high + 0.27), 0.11, 0.09)), head)
    canvas.cast(spot.put([(-0.08, 0, -0.1), (0.08, 0, -0.1), (0.08, 0, 0.1), (-0.08, 0, 0.1)]), high)
    if climate.night and z < _REACH:
        canvas.lights.append(Light((x + reach, high, z), scaled(glow, stage.uniform(1.8, 4.0)), downward=True))


def traffic_light(stage: Stage, x: float, z: float) -> None:
    """Draw a traffic light; what M3FD labels as a lamp is its head. It glows in visible light alone."""
    canvas, climate = stage.canvas, stage.climate
    number = canvas.thing("lamp")
    low, spot = stage.uniform(2.6, 3.4), Spot(x, z)
    _boxed(stage, spot, low, (0.03, 0.03, 0.03), number)
    lit = int(stage.rng.choice([0, 0, 1, 2]))
    colours: tuple[Colour, ...] = ((0.05, 1.0, 0.55), (1.0, 0.55, 0.03), (1.0, 0.06, 0.04))
    for index, colour in enumerate(colours):
        on = index == (2, 0, 1)[lit] if lit else index == 2
        glow = scaled(colour, (3.5 if climate.night else 1.1) if on else 0.002)
        lens = Surface(scaled(colour, 0.08), climate.air + 1.0, glow, contrast=0.0)
        canvas.paint(spot.put(ellipse(0, low + 0.21 + 0.365 * index, 0.155, 0.155)), lens, number)


def panel(stage: Stage, x: float, z: float) -> None:
    """Draw a road panel of the shape and height of a traffic light: infrared cannot tell one from the other."""
    low, spot = stage.uniform(2.6, 3.4), Spot(x, z)
    _boxed(stage, spot, low, (0.03, 0.10, 0.42))
    for up in (0.25, 0.6, 0.95):
        stage.canvas.paint(
            spot.put(rectangle(-0.18, low + up - 0.06, 0.18, low + up + 0.06)), _reflecting(stage, _WHITE)
        )


def _boxed(stage: Stage, spot: Spot, low: float, colour: Colour, number: int = 0) -> None:
    """Draw a box on a post, as warm as the air."""
    canvas, climate = stage.canvas, stage.climate
    steel = Surface((0.10, 0.10, 0.10), climate.air, contrast=0.1)
    canvas.paint(spot.put(limb((0, 0), (0, low + 0.2), 0.07, 0.06)), steel)
    case = stage.matt(colour, above=climate.air - climate.ground + 0.5, contrast=0.05)
    canvas.paint(spot.put(rectangle(-0.27, low, 0.27, low + 1.15)), case, number)


def _reflecting(stage: Stage, colour: Colour) -> Surface:
    """Return the foil of road signs: it throws headlights back, and is as warm as the air."""
    return Surface(colour, stage.climate.air, contrast=0.05, retro=5.0)


def sign(stage: Stage, x: float, z: float) -> None:
    """Draw a road sign: a triangle, a disc or a blue panel that throws headlights back."""
    canvas, climate = stage.canvas, stage.climate
    spot, high = Spot(x, z), stage.uniform(2.0, 2.6)
    canvas.paint(spot.put(limb((0, 0), (0, high), 0.04, 0.04)), Surface((0.3, 0.3, 0.3), climate.air))
    red, white, blue = (_reflecting(stage, colour) for colour in ((0.5, 0.02, 0.03), _WHITE, (0.03, 0.10, 0.42)))
    match int(stage.rng.integers(3)):
        case 0:
            shapes = [
                ([(-0.45, high + 0.4), (0.45, high + 0.4), (0, high - 0.4)], red),
                ([(-0.27, high + 0.3), (0.27, high + 0.3), (0, high - 0.18)], white),
            ]
        case 1:
            shapes = [
                (ellipse(0, high, 0.38, 0.38), red),
                (ellipse(0, high, 0.27, 0.27), white),
                (limb((-0.16, high + 0.16), (0.16, high - 0.16), 0.05, 0.05), red),
            ]
        case _:
            shapes = [
                (rectangle(-0.5, high - 0.4, 0.5, high + 0.4), blue),
                (rectangle(-0.3, high - 0.07, 0.3, high + 0.07), white),
            ]
    for outline, surface in shapes:
        canvas.paint(spot.put(outline), surface)


def cone(stage: Stage, x: float, z: float) -> int:
    """Draw a traffic cone and return its number."""
    canvas, spot, high = stage.canvas, Spot(x, z), stage.uniform(0.7, 0.95)
    number = canvas.thing("color cone")
    orange = stage.matt((0.62, 0.09, 0.02), contrast=0.08)
    band = stage.painted(_WHITE, 5.0)

    def at(up: float) -> float:
        return 0.21 * (1 - 0.85 * up / high)

    canvas.paint(spot.put(rectangle(-0.27, 0.0, 0.27, 0.05)), stage.matt((0.04, 0.04, 0.04)), number)
    canvas.paint(spot.put([(-at(0.04), 0.04), (at(0.04), 0.04), (at(high), high), (-at(high), high)]), orange, number)
    for low, top in ((0.32, 0.48), (0.62, 0.76)):
        a, b = low * high, top * high
        canvas.paint(spot.put([(-at(a), a), (at(a), a), (at(b), b), (-at(b), b)]), band, number)
    canvas.cast(spot.put([(-0.2, 0, -0.2), (0.2, 0, -0.2), (0.2, 0, 0.2), (-0.2, 0, 0.2)]), high * 0.8)
    return number


def car_stop(stage: Stage, x: float, z: float) -> int:
    """Draw a wheel stop, a low block with painted bands, and return its number."""
    canvas = stage.canvas
    number = canvas.thing("car stop")
    wide, deep, high = 1.7, 0.22, 0.17
    block = stage.matt((0.34, 0.33, 0.31), texture="worn", contrast=0.25)
    canvas.cast(flat(x - wide / 2, z, x + wide / 2, z + deep), high)
    canvas.paint(flat(x - wide / 2, z, x + wide / 2, z + deep, high), block, number)
    canvas.paint(wall(x - wide / 2, z, x + wide / 2, z, 0.0, high), block, number)
    dark, bright = stage.matt((0.02, 0.02, 0.02)), stage.painted(_YELLOW, 3.0)
    for index in range(6):
        left = x - wide / 2 + index * wide / 6
        canvas.paint(wall(left, z - 0.01, left + wide / 6, z - 0.01, 0.02, high), (bright, dark)[index % 2], number)
    return number


def bump(stage: Stage, z: float) -> int:
    """Draw a speed bump across the road, striped yellow and black, and return its number."""
    canvas, road = stage.canvas, stage.road
    number = canvas.thing("bump")
    deep, high = 0.9, 0.07
    left, right = road.left + 0.3, road.right - 0.3
    dark, bright = stage.matt((0.025, 0.025, 0.025), texture="worn"), stage.painted(_YELLOW, 2.5)
    count = max(6, round((right - left) / 0.5))
    edges = np.linspace(left, right, count + 1)
    for index, (x0, x1) in enumerate(pairwise(edges)):
        surface = (bright, dark)[index % 2]
        canvas.paint(
            np.array([(x0, 0, z), (x1, 0, z), (x1, high, z + deep / 2), (x0, high, z + deep / 2)]), surface, number
        )
        canvas.paint(flat(x0, z + deep / 2, x1, z + deep, high), surface, number)
    return number


def guardrail(stage: Stage, x: float, z0: float, z1: float) -> list[Item]:
    """Return the fields of a guardrail along the road, each to be painted at its own distance."""
    canvas = stage.canvas
    number = canvas.thing("guardrail")
    steel = stage.matt((0.42, 0.43, 0.43), texture="worn", contrast=0.2)
    rail = stage.painted((0.50, 0.50, 0.48), 3.0)

    def field(near: float, far: float) -> None:
        canvas.paint(Spot(x, far).put(rectangle(-0.06, 0.0, 0.06, 0.85)), steel, number)
        canvas.paint([wall(x, near, x, far, low, low + 0.2) for low in (0.28, 0.62)], rail, number)

    edges = np.arange(z0, z1 + 0.1, 2.0)
    return [(float(b), partial(field, float(a), float(b))) for a, b in pairwise(edges)]
