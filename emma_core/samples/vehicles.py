"""Cars, vans, buses and trucks: side profiles drawn out to their width, with hot engines, tyres and exhausts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emma_core.samples.canvas import Light, Surface
from emma_core.samples.stage import Spot, ellipse, rectangle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.samples.canvas import Colour, Points
    from emma_core.samples.stage import Stage

_PAINTS: tuple[Colour, ...] = (
    (0.62, 0.62, 0.60),
    (0.30, 0.31, 0.32),
    (0.03, 0.03, 0.035),
    (0.32, 0.03, 0.03),
    (0.04, 0.09, 0.26),
    (0.10, 0.11, 0.12),
    (0.50, 0.47, 0.40),
)
_BUS_PAINTS: tuple[Colour, ...] = ((0.55, 0.36, 0.05), (0.08, 0.28, 0.14), (0.10, 0.22, 0.48), (0.55, 0.55, 0.52))
_LOAD_PAINTS: tuple[Colour, ...] = ((0.62, 0.62, 0.60), (0.08, 0.20, 0.42), (0.50, 0.42, 0.10))
_PROUD = 0.015  # metres by which details stand before the surface they are painted on

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Body:
    """A profile drawn out to a width; lengths in metres.

    Attributes:
        length: from tail to nose.
        width: at the waist; the roof is narrower.
        profile: (along, up) from the rear bumper over the roof to the front bumper.
        roles: what each edge of the profile is: tail, glass, roof, hood, nose.
        panes: side windows, (along, up).
        wheels: (along, radius).
        taper: how much narrower the top is than the waist, as a fraction.
    """

    length: float
    width: float
    profile: Outline
    roles: tuple[str, ...]
    panes: tuple[Outline, ...]
    wheels: tuple[tuple[float, float], ...]
    taper: float = 0.16


SEDAN = Body(
    4.5,
    1.78,
    ((0.0, 0.25), (0.0, 0.9), (0.55, 0.98), (1.15, 1.42), (2.55, 1.44), (3.3, 0.97), (4.4, 0.78), (4.5, 0.25)),
    ("tail", "hood", "glass", "roof", "glass", "hood", "nose"),
    (((0.75, 1.0), (1.25, 1.36), (1.85, 1.38), (1.85, 0.98)), ((1.95, 0.98), (1.95, 1.38), (2.5, 1.37), (3.1, 0.98))),
    ((0.85, 0.33), (3.6, 0.33)),
)
WAGON = Body(
    4.3,
    1.80,
    ((0.0, 0.28), (0.0, 1.0), (0.3, 1.6), (2.6, 1.64), (3.3, 1.08), (4.2, 0.92), (4.3, 0.28)),
    ("tail", "glass", "roof", "glass", "hood", "nose"),
    (
        ((0.25, 1.08), (0.42, 1.52), (1.1, 1.55), (1.1, 1.06)),
        ((1.2, 1.06), (1.2, 1.55), (1.9, 1.56), (1.9, 1.06)),
        ((2.0, 1.06), (2.0, 1.56), (2.5, 1.56), (3.05, 1.06)),
    ),
    ((0.8, 0.36), (3.5, 0.36)),
)
VAN = Body(
    4.8,
    1.85,
    ((0.0, 0.3), (0.0, 1.1), (0.12, 1.85), (3.6, 1.95), (4.4, 1.15), (4.75, 0.95), (4.8, 0.3)),
    ("tail", "glass", "roof", "glass", "hood", "nose"),
    (((0.3, 1.15), (0.35, 1.7), (2.2, 1.76), (2.2, 1.15)), ((2.9, 1.15), (2.9, 1.76), (3.5, 1.76), (4.1, 1.15))),
    ((0.85, 0.34), (3.9, 0.34)),
    0.10,
)
BUS = Body(
    9.5,
    2.5,
    ((0.0, 0.35), (0.0, 1.5), (0.05, 2.6), (0.1, 3.1), (9.3, 3.1), (9.45, 2.75), (9.5, 1.1), (9.5, 0.35)),
    ("tail", "glass", "tail", "roof", "board", "glass", "nose"),
    tuple(((a, 1.4), (a, 2.55), (a + 1.3, 2.55), (a + 1.3, 1.4)) for a in (0.5, 1.95, 3.4, 4.85, 6.3, 7.75)),
    ((2.3, 0.48), (7.4, 0.48)),
    0.04,
)
CAB = Body(
    1.9,
    2.1,
    ((0.0, 0.5), (0.0, 2.3), (1.3, 2.35), (1.75, 1.35), (1.85, 1.2), (1.9, 0.45)),
    ("tail", "roof", "glass", "hood", "nose"),
    (((0.5, 1.4), (0.5, 2.15), (1.2, 2.2), (1.5, 1.4)),),
    ((1.0, 0.42),),
    0.08,
)
LOAD = Body(
    4.0,
    2.25,
    ((0.0, 0.75), (0.0, 3.0), (4.0, 3.0), (4.0, 0.75)),
    ("tail", "roof", "tail"),
    (),
    ((0.9, 0.42), (3.2, 0.42)),
    0.0,
)


def car(stage: Stage, spot: Spot, *, running: bool) -> int:
    """Draw a car, a station wagon or a van and return its number."""
    body = (SEDAN, SEDAN, WAGON, VAN)[int(stage.rng.integers(4))]
    return _vehicle(stage, "car", spot, ((body, 0.0, _choose(stage, _PAINTS)),), running=running)


def bus(stage: Stage, spot: Spot) -> int:
    """Draw a running bus with a lit saloon and return its number."""
    return _vehicle(stage, "bus", spot, ((BUS, 0.0, _choose(stage, _BUS_PAINTS)),), running=True)


def truck(stage: Stage, spot: Spot) -> int:
    """Draw a truck with a box body and return its number."""
    parts = ((LOAD, -1.0, _choose(stage, _LOAD_PAINTS)), (CAB, 1.95, _choose(stage, _PAINTS)))
    return _vehicle(stage, "truck", spot, parts, running=stage.chance(stage.running))


def _vehicle(stage: Stage, kind: str, spot: Spot, parts: Sequence[tuple[Body, float, Colour]], *, running: bool) -> int:
    number = stage.canvas.thing(kind)
    ahead = math.cos(spot.yaw)
    drawn = [_Drawn(stage, number, spot, body, shift, paint, running) for body, shift, paint in parts]
    for body in drawn:
        body.ground()
    for body in sorted(drawn, key=lambda each: -each.shift * ahead):
        body.paint()
    return number


@dataclass
class _Drawn:
    """One body on its spot; ``shift`` is how far its middle lies before that of the vehicle."""

    stage: Stage
    number: int
    spot: Spot
    body: Body
    shift: float
    colour: Colour
    running: bool

    def __post_init__(self) -> None:
        climate = self.stage.climate
        heat = 1.0 if self.running else 0.0
        sunny = 6.0 * climate.sun
        self.skin = Surface(self.colour, climate.air + 2 * heat + sunny, texture="worn", contrast=0.06, warmth=0.5)
        self.hood = Surface(self.colour, climate.air + 9 * heat + sunny, texture="worn", contrast=0.06, warmth=1.0)
        shine = 0.0 if climate.night else 0.05
        self.glass = Surface((0.03, 0.035, 0.04), climate.air - 4, (shine, shine * 1.1, shine * 1.25), "worn", 0.5)
        self.rubber = Surface((0.018, 0.018, 0.018), climate.air + 16 * heat + 1, contrast=0.1, warmth=1.0)
        self.rim = Surface((0.25, 0.25, 0.26), climate.air + 11 * heat, contrast=0.1)
        self.belly = Surface((0.008, 0.008, 0.008), climate.air + 20 * heat + 1, contrast=0.1, warmth=2.0)
        self.saloon = self._saloon() if self.body is BUS else self.glass

    def ground(self) -> None:
        """Paint the dark, and if the engine runs warm, road below, and cast the shadow."""
        canvas, climate, half = self.stage.canvas, self.stage.climate, self.body.width / 2
        below = self._place([(a, 0.0, s) for a, s in self._footprint(half * 0.96)])
        warm = climate.ground + (5.0 if self.running else 0.3)
        canvas.paint(below, Surface((0.015, 0.015, 0.015), warm, texture="asphalt", warmth=0.5))
        around = self._place([(a, 0.0, s) for a, s in self._footprint(half)])
        canvas.cast(around, max(up for _, up in self.body.profile) * 0.9, lasting=not self.running)

    def paint(self) -> None:
        """Paint wheels, then every face of the body that the camera sees."""
        self._axles()
        faces = []
        for index, role in enumerate(self.body.roles):
            quad, normal = self._face(index)
            if float(normal @ (self._eye() - quad.mean(axis=0))) > 0:
                faces.append((float(quad[:, 2].mean()), index, role, quad))
        for _, index, role, quad in sorted(faces, key=lambda face: -face[0]):
            self._paint_face(index, role, quad)
        for sign in (-1.0, 1.0):
            outward = self._place([(sign, 0, 0)])[0] - self._place([(0, 0, 0)])[0]
            middle = self._place([(sign * self.body.width / 2, 0.8, self.body.length / 2)])[0]
            if float(outward @ (self._eye() - middle)) > 0:
                self._paint_side(sign)

    def _place(self, local: Sequence[tuple[float, float, float]]) -> Points:
        """Map (across, up, along from the tail) to the world."""
        middle = self.body.length / 2 - self.shift
        return self.spot.put([(a, h, s - middle) for a, h, s in local])

    def _eye(self) -> Points:
        return np.array([0.0, self.stage.canvas.camera.height, 0.0])

    def _half(self, up: float) -> float:
        top = max(height for _, height in self.body.profile)
        over = max(0.0, up - 0.5 * top) / (0.5 * top)
        return self.body.width / 2 * (1 - self.body.taper * over)

    def _footprint(self, half: float) -> list[tuple[float, float]]:
        return [(-half, 0.0), (half, 0.0), (half, self.body.length), (-half, self.body.length)]

    def _face(self, index: int) -> tuple[Points, Points]:
        """Return the four corners of the strip over one edge of the profile, and its outward normal."""
        (s0, h0), (s1, h1) = self.body.profile[index], self.body.profile[index + 1]
        quad = self._place(
            [(-self._half(h0), h0, s0), (self._half(h0), h0, s0), (self._half(h1), h1, s1), (-self._half(h1), h1, s1)]
        )
        normal = self._place([(0, s1 - s0, h0 - h1)])[0] - self._place([(0, 0, 0)])[0]
        return quad, normal

    def _on_face(self, index: int, outline: Sequence[tuple[float, float]]) -> Points:
        """Map (fraction across, fraction along the edge) of a face to the world, a little proud of it."""
        (s0, h0), (s1, h1) = self.body.profile[index], self.body.profile[index + 1]
        rows = []
        for across, edge in outline:
            up = h0 + (h1 - h0) * edge
            rows.append(((2 * across - 1) * self._half(up), up, s0 + (s1 - s0) * edge))
        return self._place(rows)

    def _paint_face(self, index: int, role: str, quad: Points) -> None:
        canvas = self.stage.canvas
        base = self.hood if role in {"hood", "nose"} else self.skin
        canvas.paint(quad, base, self.number)
        if role == "glass":
            pane = self.saloon if self.body is BUS else self.glass
            canvas.paint(self._on_face(index, rectangle(0.06, 0.06, 0.94, 0.92)), pane, self.number)
        elif role == "board":
            lit: Colour = (2.2, 1.0, 0.15) if self.stage.climate.night else (0.5, 0.25, 0.05)
            board = Surface((0.02, 0.02, 0.02), self.skin.temperature, lit, contrast=0.8, texture="worn")
            canvas.paint(self._on_face(index, rectangle(0.2, 0.2, 0.8, 0.8)), board, self.number)
        elif role == "nose":
            self._nose(index)
        elif role == "tail" and index == 0:
            self._tail(index)

    def _nose(self, index: int) -> None:
        """Grille, bumper and headlights; the radiator behind the grille is the hottest part of a car."""
        canvas, climate = self.stage.canvas, self.stage.climate
        heat = self.stage.uniform(24, 38) if self.running else 1.0
        grille = Surface((0.015, 0.015, 0.015), climate.air + heat, contrast=0.2, warmth=2.0)
        canvas.paint(self._on_face(index, rectangle(0.26, 0.30, 0.74, 0.62)), grille, self.number)
        canvas.paint(self._on_face(index, rectangle(0.1, 0.78, 0.9, 0.95)), self.belly, self.number)
        self._plate(index, 0.64, 0.76)
        lit = climate.night and self.running
        glow: Colour = (7.0, 6.6, 5.8) if lit else _off(climate.night, (0.12, 0.12, 0.12))
        lens = Surface((0.5, 0.5, 0.5), climate.air + (5 if self.running else 0), glow, contrast=0.0)
        for middle in (0.14, 0.86):
            canvas.paint(self._on_face(index, ellipse(middle, 0.30, 0.085, 0.13)), lens, self.number)
        if lit:
            tip = self._place([(0.0, 0.25, self.body.length + 1.6)])[0]
            canvas.lights.append(Light((float(tip[0]), 0.5, float(tip[2])), (0.16, 0.155, 0.14)))

    def _tail(self, index: int) -> None:
        """Tail lamps, plate and exhaust; a box body gets the seam of its doors."""
        canvas, climate = self.stage.canvas, self.stage.climate
        low = 0.02 if self.body is LOAD else 0.5
        high = 0.09 if self.body is LOAD else 0.78
        if self.body is LOAD:
            canvas.paint(self._on_face(index, rectangle(0.49, 0.0, 0.51, 1.0)), self.belly, self.number)
        if self.body is BUS:
            canvas.paint(self._on_face(index, rectangle(0.15, 0.05, 0.85, 0.4)), self._engine(18), self.number)
        lit = climate.night and self.running
        glow: Colour = (1.8, 0.05, 0.03) if lit else _off(climate.night, (0.10, 0.005, 0.005))
        lens = Surface((0.35, 0.02, 0.02), climate.air + 2, glow, contrast=0.0, retro=2.0)
        for left, right in ((0.03, 0.19), (0.81, 0.97)):
            canvas.paint(self._on_face(index, rectangle(left, low, right, high)), lens, self.number)
        canvas.paint(self._on_face(index, rectangle(0.02, 0.0, 0.98, 0.12)), self.belly, self.number)
        self._plate(index, 0.28, 0.46)
        if self.running:
            pipe = self._place([(a + 0.55, h - 0.02, -0.02) for a, h in ellipse(0, 0.24, 0.11, 0.09)])
            canvas.paint(pipe, self._engine(55), self.number)

    def _plate(self, index: int, low: float, high: float) -> None:
        plate = Surface((0.10, 0.18, 0.45), self.skin.temperature, texture="worn", contrast=0.5, retro=4.0)
        self.stage.canvas.paint(self._on_face(index, rectangle(0.39, low, 0.61, high)), plate, self.number)

    def _engine(self, above: float) -> Surface:
        return Surface((0.03, 0.03, 0.03), self.stage.climate.air + above, contrast=0.2, warmth=2.0)

    def _saloon(self) -> Surface:
        if not self.stage.climate.night:
            return self.glass
        return Surface(
            (0.05, 0.05, 0.05), self.stage.climate.air - 1, (0.050, 0.048, 0.036), texture="worn", contrast=0.25
        )

    def _axles(self) -> None:
        """Tyres and the dark underside as they show below the bumpers."""
        canvas, half = self.stage.canvas, self.body.width / 2
        bottom = self.body.profile[0][1]
        for along in sorted(
            (each[0] for each in self.body.wheels), key=lambda s: -float(self._place([(0, 0, s)])[0, 2])
        ):
            shade = self._place([(a, h, along) for a, h in rectangle(-half * 0.9, 0.14, half * 0.9, bottom + 0.25)])
            canvas.paint(shade, self.belly, self.number)
            for sign in (-1.0, 1.0):
                edges = sorted((sign * half * 0.97, sign * (half * 0.97 - 0.22)))
                tyre = self._place([(a, h, along) for a, h in rectangle(edges[0], 0.0, edges[1], bottom + 0.25)])
                canvas.paint(tyre, self.rubber, self.number)

    def _paint_side(self, sign: float) -> None:
        canvas, body = self.stage.canvas, self.body

        def on_side(outline: Sequence[tuple[float, float]], proud: float = _PROUD) -> Points:
            return self._place([(sign * (self._half(h) + proud), h, s) for s, h in outline])

        canvas.paint(on_side(body.profile, 0.0), self.skin, self.number)
        for pane in body.panes:
            canvas.paint(on_side(pane), self.saloon, self.number)
        if self.running and body is not LOAD:
            front = [(s, h) for s, h in body.profile if s > body.length * 0.72 and h > 0.5]
            engine = [*front, (body.length * 0.98, 0.55), (body.length * 0.75, 0.55)]
            canvas.paint(on_side(engine), self.hood, self.number)
        low = [(0.02, body.profile[0][1]), (body.length - 0.02, body.profile[-1][1])]
        sill = [*low, (low[1][0], low[1][1] + 0.1), (low[0][0], low[0][1] + 0.1)]
        canvas.paint(on_side(sill), self.belly, self.number)
        for along, radius in body.wheels:
            canvas.paint(on_side(ellipse(along, radius, radius, radius, 18)), self.rubber, self.number)
            canvas.paint(on_side(ellipse(along, radius, radius * 0.6, radius * 0.6)), self.rim, self.number)


def _off(night: bool, gleam: Colour) -> Colour:
    """Return what an unlit lamp gives off: daylight that its mirror throws back."""
    return (0.0, 0.0, 0.0) if night else gleam


def _choose(stage: Stage, colours: tuple[Colour, ...]) -> Colour:
    shade = stage.uniform(0.85, 1.15)
    colour = colours[int(stage.rng.integers(len(colours)))]
    return (colour[0] * shade, colour[1] * shade, colour[2] * shade)
