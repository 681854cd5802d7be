"""Houses with windows, trees and hedges: what the street runs between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from emma_core.samples.canvas import Surface
from emma_core.samples.stage import Spot, flat, limb, scaled, wall

if TYPE_CHECKING:
    from emma_core.samples.canvas import Colour, Points
    from emma_core.samples.stage import Stage

_FACADES: tuple[Colour, ...] = (
    (0.30, 0.27, 0.22),
    (0.24, 0.12, 0.08),
    (0.36, 0.35, 0.33),
    (0.18, 0.19, 0.21),
    (0.33, 0.26, 0.16),
)
_ROOMS: tuple[Colour, ...] = ((1.0, 0.80, 0.48), (0.85, 1.0, 0.80), (1.0, 0.95, 0.85))
_STOREY, _BAY = 3.1, 2.6  # metres


def skyline(stage: Stage) -> None:
    """Paint far blocks that close the view."""
    x = -75.0
    while x < 75:
        wide, high = stage.uniform(9, 20), stage.uniform(5, 26)
        _front(stage, x, x + wide, stage.uniform(95, 150), high, sparse=True)
        x += wide + stage.uniform(-2, 8)


def houses(stage: Stage, side: int) -> None:
    """Paint a row of houses along one side of the street (-1 left, 1 right), the farthest first."""
    x = (stage.road.left if side < 0 else stage.road.right) + side * stage.road.wall
    plots: list[tuple[float, float]] = []
    z = stage.uniform(-2, 9)
    while z < 80:
        long = stage.uniform(9, 22)
        if stage.chance(0.8):
            plots.append((max(z, 0.7), z + long))
        z += long + stage.uniform(0.5, 8)
    for near, far in reversed(plots):
        high = stage.uniform(5.5, 17)
        _flank(stage, x, near, far, high)
        _front(stage, min(x, x + side * 12.0), max(x, x + side * 12.0), near, high)
        canvas_base = np.array([(x, 0, near), (x + side * 12, 0, near), (x + side * 12, 0, far), (x, 0, far)], float)
        stage.canvas.cast(canvas_base, high, lasting=True)


def tree(stage: Stage, x: float, z: float) -> None:
    """Paint a tree: a trunk, some branches and many clumps of leaves, brighter towards the top."""
    canvas, climate = stage.canvas, stage.climate
    high, spot = stage.uniform(4.5, 8.0), Spot(x, z)
    bark = Surface((0.06, 0.045, 0.03), climate.air + 2.2, texture="leaves", contrast=0.4, warmth=0.8)
    fork = high * stage.uniform(0.32, 0.45)
    canvas.paint(spot.put(limb((0, 0), (0, fork + 0.6), 0.20, 0.13)), bark)
    for lean in (-0.8, 0.1, 0.9):
        canvas.paint(spot.put(limb((0, fork), (lean * high * 0.17, high * 0.75), 0.09, 0.03)), bark)
    canvas.cast(spot.put([(-1.0, 0, -1.0), (1.0, 0, -1.0), (1.0, 0, 1.0), (-1.0, 0, 1.0)]), high * 0.9, lasting=True)
    green = _greens(stage)
    wide, tall = high * stage.uniform(0.24, 0.32), high * 0.27
    for layer, shade in enumerate((0.30, 0.55, 0.85, 1.2)):
        if z > 32 and layer % 2:
            continue  # too small to tell
        warm = climate.air + 0.9 - 0.5 * layer
        leaves = Surface(scaled(green, shade), warm, texture="leaves", contrast=0.75, warmth=0.9)
        clumps = _clumps(stage, (x, high * 0.66 + 0.12 * tall * layer, z), (wide * (1 - 0.07 * layer), tall), layer)
        canvas.paint(clumps, leaves)


def hedge(stage: Stage, x: float, z0: float, z1: float) -> None:
    """Paint a clipped hedge along the street, with an uneven top."""
    canvas, climate = stage.canvas, stage.climate
    high = stage.uniform(0.7, 1.3)
    green = _greens(stage)
    top = Surface(scaled(green, 1.1), climate.air, texture="leaves", contrast=0.7, warmth=0.6)
    flank = Surface(scaled(green, 0.7), climate.air + 0.5, texture="leaves", contrast=0.7, warmth=0.6)
    outer = x + math.copysign(0.9, x)
    canvas.paint(flat(min(x, outer), z0, max(x, outer), z1, high * 0.95), top)
    along = np.arange(z0, z1 + 0.01, max(0.35, (z1 - z0) / 30))
    crest = [(x, high * stage.uniform(0.9, 1.08), z) for z in along[::-1]]
    canvas.paint(np.array([(x, 0, along[0]), (x, 0, along[-1]), *crest]), flank)
    canvas.paint(wall(min(x, outer), z0, max(x, outer), z0, 0, high), flank)
    canvas.cast(flat(min(x, outer), z0, max(x, outer), z1), high, lasting=True)


def _flank(stage: Stage, x: float, near: float, far: float, high: float) -> None:
    """Paint the side of a house that faces the street, with bays of windows."""
    stage.canvas.paint(wall(x, near, x, far, 0.0, high), _facade(stage, 0.4))
    bays, rows = np.arange(near + 0.4, far - _BAY + 0.2, _BAY), np.arange(1.0, high - 2.0, _STOREY)
    _windows(stage, _grid(wall(x, 0.5, x, _BAY - 0.6, 0.0, 1.5), bays, rows, (0, 0, 1)))


def _front(stage: Stage, x0: float, x1: float, z: float, high: float, *, sparse: bool = False) -> None:
    """Paint a side of a house that faces the camera."""
    stage.canvas.paint(wall(x0, z, x1, z, 0.0, high), _facade(stage, 0.0))
    bay, storey = (_BAY * 1.6, _STOREY * 1.3) if sparse else (_BAY, _STOREY)
    bays, rows = np.arange(x0 + 0.4, x1 - bay + 0.2, bay), np.arange(1.0, high - 2.0, storey)
    _windows(stage, _grid(wall(0.5, z, bay - 0.7, z, 0.0, storey * 0.5), bays, rows, (1, 0, 0)))


def _grid(pane: Points, bays: Points, rows: Points, along: tuple[int, int, int]) -> Points:
    """Repeat a pane for every bay and storey: (P, 4, 3)."""
    shift = bays[:, None, None] * np.array(along) + rows[None, :, None] * np.array([0, 1, 0])
    return np.asarray(shift.reshape(-1, 1, 3) + pane)


def _facade(stage: Stage, above: float) -> Surface:
    shade = stage.uniform(0.8, 1.15)
    colour = scaled(_FACADES[int(stage.rng.integers(len(_FACADES)))], shade)
    warm = stage.climate.air + above + stage.uniform(0.0, 3.5)
    return Surface(colour, warm, texture="bricks", contrast=0.28, warmth=0.8)


def _windows(stage: Stage, panes: Points) -> None:
    """Paint windows: some lit at night; the glass mirrors the cold sky, rooms behind it leak a little heat."""
    if not len(panes):
        return
    climate = stage.climate
    shine = 0.0 if climate.night else stage.uniform(0.03, 0.10)
    dark = Surface((0.03, 0.035, 0.04), climate.air - 3, (shine, shine * 1.1, shine * 1.3), "worn", 0.5)
    lit = stage.rng.random(len(panes)) < (stage.uniform(0.05, 0.4) if climate.night else 0.0)
    stage.canvas.paint(panes[~lit], dark)
    room = scaled(_ROOMS[int(stage.rng.integers(len(_ROOMS)))], stage.uniform(0.04, 0.35))
    glow = Surface((0.1, 0.1, 0.1), climate.air + 2.0, room, texture="worn", contrast=0.6)
    stage.canvas.paint(panes[lit], glow)


def _greens(stage: Stage) -> Colour:
    autumn = stage.uniform(0, 1) ** 3
    return (0.045 + 0.10 * autumn, 0.085 + 0.01 * autumn, 0.025)


def _clumps(stage: Stage, middle: tuple[float, float, float], reach: tuple[float, float], layer: int) -> Points:
    """Outline ragged clumps of leaves (P, 12, 3) all over a crown of the given half width and half height."""
    rng, count = stage.rng, 9 + 5 * layer
    angle, distance = rng.uniform(0, 2 * math.pi, (count, 1)), np.sqrt(rng.uniform(0, 1, (count, 1)))
    size = reach[0] * rng.uniform(0.24, 0.42, (count, 1)) * (1.15 - 0.22 * layer)
    turns, radii = np.arange(12) * (math.pi / 6), size * rng.uniform(0.55, 1.2, (count, 12))
    clumps = np.empty((count, 12, 3))
    clumps[..., 0] = middle[0] + reach[0] * distance * np.cos(angle) + radii * np.cos(turns)
    clumps[..., 1] = middle[1] + reach[1] * distance * np.sin(angle) + radii * np.sin(turns)
    clumps[..., 2] = middle[2]
    return clumps
