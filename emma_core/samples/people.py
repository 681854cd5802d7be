"""People, bicycles and motorcycles: warm bodies in clothes, hot engines, cold frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from emma_core.samples.canvas import Surface
from emma_core.samples.stage import SKIN, Spot, ellipse, limb, rectangle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.samples.canvas import Colour
    from emma_core.samples.stage import Stage

_SKINS: tuple[Colour, ...] = ((0.48, 0.28, 0.20), (0.36, 0.20, 0.13), (0.14, 0.07, 0.05), (0.55, 0.34, 0.26))
_DARK: tuple[Colour, ...] = (
    (0.02, 0.02, 0.025),
    (0.03, 0.035, 0.06),
    (0.05, 0.045, 0.04),
    (0.02, 0.03, 0.025),
    (0.08, 0.08, 0.09),
)
_BRIGHT: tuple[Colour, ...] = (
    (0.55, 0.55, 0.52),
    (0.42, 0.05, 0.05),
    (0.07, 0.14, 0.40),
    (0.45, 0.34, 0.12),
    (0.12, 0.26, 0.13),
    (0.40, 0.40, 0.44),
)
_SHOULDER, _HIP = 0.815, 0.50  # of the body height
_WHEEL = 0.34  # metres, radius


def person(stage: Stage, spot: Spot, *, carrier: int = 0, riding: bool = False) -> int:
    """Draw one person, standing, walking or riding, and return its number."""
    canvas = stage.canvas
    number = canvas.thing("person", carrier)
    tall = stage.uniform(1.52, 1.86)
    upper, lower, skin = _clothes(stage)
    side = 0.45 + 0.55 * abs(math.cos(spot.yaw))  # narrower when seen from the side

    def part(outline: Sequence[tuple[float, float]], surface: Surface) -> None:
        lift = 0.08 if riding else 0.0
        canvas.paint(Spot(spot.x, spot.z).put((u * tall * side, v * tall + lift) for u, v in outline), surface, number)

    swing = stage.uniform(0.01, 0.09) * (1 if stage.chance(0.5) else -1) / side
    _legs(part, lower, swing, riding=riding)
    _trunk(stage, part, upper, skin, swing)
    _head(stage, part, skin, helmet=bool(carrier) and stage.chance(0.6))
    if not riding:
        canvas.cast(spot.put([(-0.2, 0, -0.1), (0.2, 0, -0.1), (0.2, 0, 0.1), (-0.2, 0, 0.1)]), tall)
    return number


def bicycle(stage: Stage, spot: Spot, *, rider: bool) -> int:
    """Draw a bicycle, parked or ridden, and return its number; it is as cold as its surroundings."""
    canvas = stage.canvas
    number = canvas.thing("bike")
    frame = stage.matt(_pick(stage, _BRIGHT), contrast=0.05)
    rubber = stage.matt((0.02, 0.02, 0.02), contrast=0.0)
    spot = spot._replace(yaw=_turned(spot.yaw))

    def part(outline: Sequence[tuple[float, float]], surface: Surface) -> None:
        canvas.paint(spot.put(outline), surface, number)

    for hub in (-0.52, 0.52):
        ring = ellipse(hub, _WHEEL, _WHEEL, _WHEEL, 18)
        hole = ellipse(hub, _WHEEL, _WHEEL - 0.055, _WHEEL - 0.055, 18)
        part([*ring, ring[0], hole[0], *reversed(hole)], rubber)
        part(limb((hub, 0.05), (hub, 2 * _WHEEL - 0.05), 0.012, 0.012), rubber)
    joints = {
        "rear": (-0.52, 0.34),
        "front": (0.52, 0.34),
        "seat": (-0.2, 0.85),
        "crank": (-0.05, 0.3),
        "bar": (0.38, 0.9),
    }
    for a, b in (
        ("rear", "seat"),
        ("rear", "crank"),
        ("crank", "seat"),
        ("crank", "bar"),
        ("seat", "bar"),
        ("bar", "front"),
    ):
        part(limb(joints[a], joints[b], 0.03, 0.03), frame)
    part(limb((-0.32, 0.93), (-0.08, 0.93), 0.05, 0.03), rubber)
    part(limb((0.38, 0.9), (0.30, 1.02), 0.025, 0.025), rubber)
    if stage.chance(0.5):
        part(rectangle(0.42, 0.72, 0.72, 0.95), stage.matt((0.25, 0.25, 0.26)))
    canvas.cast(spot.put([(-0.8, 0, -0.05), (0.8, 0, -0.05), (0.8, 0, 0.05), (-0.8, 0, 0.05)]), 0.8)
    if rider:
        person(stage, spot, carrier=number, riding=True)
    return number


def motorcycle(stage: Stage, spot: Spot) -> int:
    """Draw a motorcycle with its rider, seen from behind or ahead, and return its number."""
    canvas, climate = stage.canvas, stage.climate
    number = canvas.thing("motorcycle")
    warm = Surface((0.02, 0.02, 0.02), climate.ground + 14, contrast=0.05, warmth=1.0)
    engine = Surface((0.10, 0.10, 0.10), climate.air + stage.uniform(45, 60), contrast=0.1, warmth=3.0)
    body = Surface(_pick(stage, _BRIGHT), climate.air + 6, contrast=0.05)
    flat_spot = Spot(spot.x, spot.z)

    def part(outline: Sequence[tuple[float, float]], surface: Surface) -> None:
        canvas.paint(flat_spot.put(outline), surface, number)

    part(ellipse(0, 0.3, 0.085, 0.30), warm)
    part(rectangle(-0.26, 0.3, 0.26, 0.55), engine)
    part(limb((0.27, 0.3), (0.33, 0.42), 0.06, 0.06), engine)
    part([(-0.2, 0.5), (0.2, 0.5), (0.24, 0.85), (-0.24, 0.85)], body)
    person(stage, flat_spot, carrier=number, riding=True)
    toward = math.cos(spot.yaw) < 0
    if toward:
        canvas.paint(flat_spot.put([(-0.3, 0.8), (0.3, 0.8), (0.22, 1.15), (-0.22, 1.15)]), body, number)
    glow: Colour = (5.0, 4.6, 3.8) if toward else (1.4, 0.04, 0.03)
    lamp = Surface((0.4, 0.3, 0.3), climate.air + 6, light=glow if climate.night else (0.3, 0.02, 0.02), retro=3.0)
    canvas.paint(flat_spot.put(ellipse(0, 0.95 if toward else 0.78, 0.10, 0.08)), lamp, number)
    canvas.paint(flat_spot.put(limb((-0.45, 1.05), (-0.2, 0.98), 0.03, 0.03)), warm, number)
    canvas.paint(flat_spot.put(limb((0.45, 1.05), (0.2, 0.98), 0.03, 0.03)), warm, number)
    canvas.cast(flat_spot.put([(-0.3, 0, -0.9), (0.3, 0, -0.9), (0.3, 0, 0.9), (-0.3, 0, 0.9)]), 1.3)
    return number


def _clothes(stage: Stage) -> tuple[Surface, Surface, Surface]:
    """Dress somebody: jacket, trousers and skin; the thicker the clothes, the less warmth gets out."""
    air = stage.climate.air
    dark = 0.85 if stage.climate.night else 0.5

    def cloth(low: float, high: float) -> Surface:
        colour = _pick(stage, _DARK if stage.chance(dark) else _BRIGHT)
        leak = stage.uniform(low, high)
        return Surface(colour, air + (SKIN - air) * leak, texture="cloth", contrast=0.25, warmth=abs(SKIN - air) * 0.09)

    skin = Surface(_pick(stage, _SKINS), SKIN + stage.uniform(-1, 1), contrast=0.05, warmth=0.4)
    return cloth(0.42, 0.72), cloth(0.38, 0.62), skin


def _legs(part: _Painter, trousers: Surface, swing: float, *, riding: bool) -> None:
    shoes = Surface((0.03, 0.03, 0.03), trousers.temperature - 2, contrast=0.05)
    for sign in (-1.0, 1.0):
        foot = (sign * (0.05 if not riding else 0.13) + sign * swing, 0.03 if not riding else 0.10)
        knee = (sign * (0.055 if not riding else 0.15) + sign * swing * 0.6, 0.27 if not riding else 0.36)
        part(limb((sign * 0.05, _HIP), knee, 0.068, 0.05), trousers)
        part(limb(knee, foot, 0.05, 0.033), trousers)
        part(limb(foot, (foot[0] + 0.03 * sign, 0.018 if not riding else 0.09), 0.03, 0.025), shoes)


def _trunk(stage: Stage, part: _Painter, jacket: Surface, skin: Surface, swing: float) -> None:
    hem = 0.36 if stage.chance(0.25) else 0.46  # a coat or a jacket
    arm = (-1.0, 1.0) if stage.chance(0.5) else (1.0, -1.0)
    for index, sign in enumerate(arm):
        if index == 1:
            part(
                [
                    (-0.115, hem),
                    (0.115, hem),
                    (0.10, 0.62),
                    (0.13, 0.80),
                    (0.05, 0.855),
                    (-0.05, 0.855),
                    (-0.13, 0.80),
                    (-0.10, 0.62),
                ],
                jacket,
            )
        elbow = (sign * 0.165, 0.63)
        hand = (sign * (0.165 + abs(swing) * 0.3) + swing * 0.4, 0.47)
        part(limb((sign * 0.12, _SHOULDER - 0.03), elbow, 0.045, 0.04), jacket)
        part(limb(elbow, hand, 0.04, 0.03), jacket)
        part(ellipse(hand[0], hand[1] - 0.02, 0.026, 0.03, 8), skin)
    if stage.chance(0.3):
        bag = stage.matt(_pick(stage, _DARK if stage.climate.night else _BRIGHT), above=1.0)
        part(limb((0, 0.74), (0, 0.62), 0.085, 0.095), bag)


def _head(stage: Stage, part: _Painter, skin: Surface, *, helmet: bool) -> None:
    part(limb((0, 0.84), (0, 0.88), 0.035, 0.035), skin)
    part(ellipse(0, 0.925, 0.052, 0.07), skin)
    if helmet:
        part(ellipse(0, 0.945, 0.075, 0.075), Surface(_pick(stage, _BRIGHT), stage.climate.air + 2, contrast=0.02))
        return
    hair = Surface((0.02, 0.015, 0.012), skin.temperature - 5, contrast=0.1, warmth=0.8)
    top = [(0.057 * math.cos(a), 0.938 + 0.064 * math.sin(a)) for a in (math.pi * k / 8 for k in range(9))]
    part([*top, (0, 0.92)], hair)


def _pick(stage: Stage, colours: tuple[Colour, ...]) -> Colour:
    shade = stage.uniform(0.75, 1.2)
    colour = colours[int(stage.rng.integers(len(colours)))]
    return (colour[0] * shade, colour[1] * shade, colour[2] * shade)


def _turned(yaw: float) -> float:
    """Keep a bicycle broad enough to be recognised: never closer than 45 degrees to the line of sight."""
    return math.copysign(min(abs(yaw), math.pi / 4), yaw)


if TYPE_CHECKING:
    from typing import Protocol

    class _Painter(Protocol):
        def __call__(self, outline: Sequence[tuple[float, float]], surface: Surface) -> None: ...
