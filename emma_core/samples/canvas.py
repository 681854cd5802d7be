"""A painter's canvas for scenes made of flat surfaces: one drawing gives colours, temperatures, depths and labels.

Surfaces are painted far to near into one map of part numbers, at twice the image size; everything else
(albedo, emitted light, temperature, class, box) is looked up by part number, so images and labels cannot disagree.

World coordinates are metres: x to the right, y up from the ground, z forward from the camera, which looks along z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Points = NDArray[np.float64]

Colour = tuple[float, float, float]
Point = tuple[float, float, float]

OVERSAMPLING = 2
_NEAR = 0.6  # metres; what is nearer than this is cut off
_FRACTION_BITS = 4  # of the fixed-point pixel coordinates that OpenCV takes


@dataclass(frozen=True)
class Surface:
    """What a surface is like to both cameras.

    Attributes:
        albedo: linear reflectance for red, green, blue, each in [0, 1].
        temperature: apparent temperature in degrees Celsius, emissivity and reflected sky included.
        light: emitted linear radiance for red, green, blue; 1 is white paper in full sunlight.
        texture: name of a noise texture, see ``sensors.TEXTURES``.
        contrast: how strongly the texture changes the albedo (0: not at all).
        warmth: how strongly the texture changes the temperature, in kelvin.
        retro: how many times brighter than matt paint it throws the headlights of the own car back.
    """

    albedo: Colour
    temperature: float
    light: Colour = (0.0, 0.0, 0.0)
    texture: str = "grain"
    contrast: float = 0.15
    warmth: float = 0.2
    retro: float = 0.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along z, parallel to the ground.

    Attributes:
        size: image height and width in pixels.
        focal: focal length in pixels.
        centre: row of the horizon and column of the vanishing point, in pixels.
        height: above the ground, in metres.
    """

    size: tuple[int, int]
    focal: float
    centre: tuple[float, float]
    height: float

    def project(self, points: Points) -> Points:
        """Map world points (N, 3) with z > 0 to (column, row) in pixels, (N, 2)."""
        row, column = self.centre
        scale = self.focal / points[:, 2]
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = column + points[:, 0] * scale
        pixels[:, 1] = row + (self.height - points[:, 1]) * scale
        return pixels

    def rays(self) -> tuple[Floats, Floats]:
        """Return x / z of every column, (1, W), and (y - height) / z of every row, (H, 1)."""
        rows, columns = (np.arange(side, dtype=np.float32) for side in self.size)
        across = (columns - self.centre[1]) / self.focal
        upward = (self.centre[0] - rows) / self.focal
        return across[None, :].astype(np.float32), upward[:, None].astype(np.float32)


@dataclass
class Thing:
    """One drawn object: what it is, and what it would cover if nothing stood in front of it.

    Attributes:
        kind: name of its class, for example ``person``.
        carrier: number of the thing that it rides on, 0 for none.
        low: smallest column and row of its outline, in pixels, inside the image or not.
        high: largest column and row.
    """

    kind: str
    carrier: int = 0
    low: tuple[float, float] = (math.inf, math.inf)
    high: tuple[float, float] = (-math.inf, -math.inf)

    def extend(self, pixels: Points) -> None:
        """Make room for more of its outline, (N, 2) columns and rows."""
        (x0, y0), (x1, y1) = pixels.min(axis=0), pixels.max(axis=0)
        self.low = (min(self.low[0], x0), min(self.low[1], y0))
        self.high = (max(self.high[0], x1), max(self.high[1], y1))


@dataclass(frozen=True)
class Light:
    """A lamp that lights up its surroundings.

    Attributes:
        position: in metres.
        colour: linear radiant intensity for red, green, blue.
        downward: whether it shines below itself only, as street lamps do.
    """

    position: Point
    colour: Colour
    downward: bool = False


@dataclass(frozen=True)
class Glyph:
    """One painted part: its surface, the thing it belongs to, and the plane it lies in (n . p = offset)."""

    surface: Surface
    thing: int
    normal: Point
    offset: float
    near: float
    far: float


@dataclass
class Canvas:
    """Where a scene is painted, far to near.

    Attributes:
        camera: how the world is seen.
        sun: direction to the sun, a unit vector; shadows fall away from it.
        parts: part numbers, (2 H, 2 W), int32; 0 is the sky.
        shade: 255 where the sun does not reach the ground, (H, W), uint8.
        cool: the same, for shadows that have stood long enough to cool the ground.
        glyphs: what each part number stands for; number 0 is the sky.
        things: what each thing number stands for; number 0 is scenery.
        lights: the lamps of the scene.
    """

    camera: Camera
    sun: Point = (0.0, 1.0, 0.0)
    parts: NDArray[np.int32] = field(init=False)
    shade: NDArray[np.uint8] = field(init=False)
    cool: NDArray[np.uint8] = field(init=False)
    glyphs: list[Glyph] = field(default_factory=list)
    things: list[Thing] = field(default_factory=lambda: [Thing("scenery")])
    lights: list[Light] = field(default_factory=list)

    def __post_init__(self) -> None:
        height, width = self.camera.size
        self.parts = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.int32)
        self.shade = np.zeros((height, width), np.uint8)
        self.cool = np.zeros((height, width), np.uint8)
        self.glyphs.append(Glyph(Surface((0.0, 0.0, 0.0), 0.0), 0, (0.0, 0.0, -1.0), -2000.0, 2000.0, 2000.0))

    def thing(self, kind: str, carrier: int = 0) -> int:
        """Register an object and return its number."""
        self.things.append(Thing(kind, carrier))
        return len(self.things) - 1

    def paint(self, polygons: Points | Sequence[Points], surface: Surface, thing: int = 0) -> None:
        """Paint polygons that lie in one plane over what is there; where two of them overlap, neither is painted.

        Args:
            polygons: one polygon (N, 3), several of equal length (P, N, 3), or a list of them, in metres.
            surface: what they look like.
            thing: number of the object they belong to, 0 for scenery.
        """
        several = [polygons] if isinstance(polygons, np.ndarray) and polygons.ndim == 2 else list(polygons)
        if not several:
            return
        corners = several[0] if len(several) == 1 else np.concatenate(several)
        if corners[:, 2].min() < _NEAR:
            several = [cut for polygon in several if len(cut := _cut_near(polygon)) >= 3]
            if not several:
                return
            corners = np.concatenate(several)
        normal, offset = self._plane(several[0])
        self.glyphs.append(
            Glyph(surface, thing, normal, offset, float(corners[:, 2].min()), float(corners[:, 2].max()))
        )
        pixels = self.camera.project(corners)
        if thing:
            self.things[thing].extend(pixels)
        fine = _fixed_point((pixels + 0.5) * OVERSAMPLING - 0.5)
        outlines = [fine] if len(several) == 1 else np.split(fine, np.cumsum([len(each) for each in several])[:-1])
        cv2.fillPoly(self.parts, outlines, len(self.glyphs) - 1, cv2.LINE_8, _FRACTION_BITS)

    def cast(self, base: Points, height: float, *, lasting: bool = False) -> None:
        """Let an upright object throw its shadow on the ground.

        Args:
            base: outline of what it covers on the ground, (N, 3) in metres.
            height: in metres.
            lasting: whether it has stood there for hours.
        """
        slope = height / max(self.sun[1], 0.2)
        top = base + np.array([-self.sun[0] * slope, 0.0, -self.sun[2] * slope])
        hull = cv2.convexHull(np.concatenate([base, top])[:, [0, 2]].astype(np.float32))[:, 0]
        ground = np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], axis=-1).astype(np.float64)
        cut = _cut_near(ground)
        if len(cut) < 3:
            return
        pixels = _fixed_point(self.camera.project(cut))
        for mask in (self.shade, self.cool) if lasting else (self.shade,):
            cv2.fillPoly(mask, [pixels], 255, cv2.LINE_8, _FRACTION_BITS)

    def _plane(self, polygon: Points) -> tuple[Point, float]:
        """Return the unit normal that faces the camera and n . p, with the camera at the origin."""
        a, b, c = polygon[0], polygon[1], polygon[2]
        (ux, uy, uz), (vx, vy, vz) = (b - a).tolist(), (c - a).tolist()
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        if length < 1e-9:
            return (0.0, 0.0, -1.0), -float(a[2])
        offset = (nx * a[0] + ny * (a[1] - self.camera.height) + nz * a[2]) / length
        sign = -1.0 if offset > 0 else 1.0
        return (sign * nx / length, sign * ny / length, sign * nz / length), float(sign * offset)


def _cut_near(polygon: Points) -> Points:
    """Cut off what lies behind or right before the camera (Sutherland and Hodgman, one plane)."""
    inside = polygon[:, 2] >= _NEAR
    if inside.all():
        return polygon
    kept: list[Points] = []
    for index in range(len(polygon)):
        here, last = polygon[index], polygon[index - 1]
        if inside[index] != inside[index - 1]:
            kept.append(last + (here - last) * ((_NEAR - last[2]) / (here[2] - last[2])))
        if inside[index]:
            kept.append(here)
    return np.array(kept).reshape(-1, 3)


def _fixed_point(pixels: Points) -> NDArray[np.int32]:
    limit = 20000.0  # pixels; OpenCV's fixed-point numbers overflow far beyond it
    return np.asarray(np.rint(np.minimum(np.maximum(pixels, -limit), limit) * 2**_FRACTION_BITS), np.int32)
