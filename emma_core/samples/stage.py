"""What every prop of a scene needs: the weather, the canvas, a generator, and outlines of simple shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emma_core.samples.canvas import Surface

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emma_core.samples.canvas import Canvas, Colour, Points

SKIN = 32.5  # degrees Celsius, face and hands outdoors


@dataclass(frozen=True)
class Climate:
    """Light and heat of a scene.

    Attributes:
        name: for people.
        night: whether lamps are lit and the sun is gone.
        air: temperature of the air and of everything that stands in the shade, degrees Celsius.
        ground: temperature of the road, degrees Celsius.
        sun: strength of direct sunlight, 0 (overcast, night) to 1.
        fog: extinction in visible light, 1 / metre; infrared passes.
        smoke: how many plumes hide things in visible light.
        wet: how strongly the road mirrors lamps, 0 to 1.
        beam: strength of the own headlights, 0 to 1.
        lamps: probability that a pavement has street lamps.
        skyglow: brightness of the night sky: 1 over a town, 0 for none.
        chill: by how much the ground looks colder in infrared because it mirrors a clear night sky, kelvin; what stands
            upright does not.
        tint: white balance, gains for red, green, blue.
    """

    name: str
    night: bool
    air: float
    ground: float
    sun: float = 0.0
    fog: float = 0.0005
    smoke: int = 0
    wet: float = 0.0
    beam: float = 0.0
    lamps: float = 0.6
    skyglow: float = 1.0
    chill: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Road:
    """Where things may stand, in metres.

    Attributes:
        left: x of the left kerb, negative.
        right: x of the right kerb.
        pavement: width of the pavement on either side.
        wall: distance of the building line from the kerb.
    """

    left: float
    right: float
    pavement: float
    wall: float


class Spot(NamedTuple):
    """A place on the ground and a heading: yaw 0 looks away from the camera, pi / 2 to the right."""

    x: float
    z: float
    yaw: float = 0.0

    def put(self, local: Iterable[Sequence[float]]) -> Points:
        """Map local (across, up) or (across, up, ahead) points in metres to world points (N, 3)."""
        sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
        rows = [(point[0], point[1], point[2] if len(point) > 2 else 0.0) for point in local]
        return np.array([(self.x + a * cosine + s * sine, h, self.z - a * sine + s * cosine) for a, h, s in rows])


@dataclass
class Stage:
    """A scene in the making.

    Attributes:
        canvas: what it is painted on.
        climate: light and heat.
        road: where things may stand.
        rng: source of everything random.
        reach: how far away things are, as a fraction of the usual range.
        running: share of cars and trucks whose engine runs; the others are as cold as the street.
        taken: circles (x, z, radius) that are occupied, in metres.
    """

    canvas: Canvas
    climate: Climate
    road: Road
    rng: np.random.Generator
    reach: float = 1.0
    running: float = 0.6
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw true with a probability in [0, 1]."""
        return bool(self.rng.random() < probability)

    def matt(self, albedo: Colour, *, above: float = 0.0, texture: str = "grain", contrast: float = 0.15) -> Surface:
        """Return an unheated surface, ``above`` kelvin warmer than the ground: infrared hardly sees it."""
        return Surface(albedo, self.climate.ground + above, texture=texture, contrast=contrast)

    def painted(self, albedo: Colour, retro: float = 2.0) -> Surface:
        """Return fresh road paint: the temperature of the ground, and it throws headlights back."""
        return Surface(albedo, self.climate.ground, texture="worn", contrast=0.35, retro=retro)

    def claim(self, x: float, z: float, radius: float) -> bool:
        """Occupy a circle on the ground; false if something stands there already."""
        if any(math.hypot(x - u, z - w) < radius + r for u, w, r in self.taken):
            return False
        self.taken.append((x, z, radius))
        return True


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour times a factor."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def ellipse(u: float, v: float, across: float, up: float, corners: int = 14) -> list[tuple[float, float]]:
    """Outline an upright ellipse of the given half axes about (u, v)."""
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return [(u + across * math.cos(a), v + up * math.sin(a)) for a in angles]


def limb(start: tuple[float, float], end: tuple[float, float], thick: float, thin: float) -> list[tuple[float, float]]:
    """Outline a limb: a bar from start to end whose half width goes from thick to thin, with rounded ends."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    turns = [angle + math.pi / 2 + math.pi * k / 4 for k in range(5)]
    back = [(start[0] + thick * math.cos(a), start[1] + thick * math.sin(a)) for a in turns]
    front = [(end[0] + thin * math.cos(a + math.pi), end[1] + thin * math.sin(a + math.pi)) for a in turns]
    return back + front


def rectangle(u0: float, v0: float, u1: float, v1: float) -> list[tuple[float, float]]:
    """Outline the rectangle between two corners."""
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


def flat(x0: float, z0: float, x1: float, z1: float, y: float = 0.0) -> Points:
    """Outline a rectangle that lies on the ground (or ``y`` metres above), world points (4, 3)."""
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])


def wall(x0: float, z0: float, x1: float, z1: float, low: float, high: float) -> Points:
    """Outline an upright wall from (x0, z0) to (x1, z1), world points (4, 3)."""
    return np.array([(x0, low, z0), (x1, low, z1), (x1, high, z1), (x0, high, z0)])
