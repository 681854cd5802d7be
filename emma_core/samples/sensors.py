"""The two cameras: what a painted scene looks like in visible light and in the thermal infrared.

Visible light is albedo times illumination (sun and sky, or lamps with inverse-square falloff) plus what shines by
itself; infrared is temperature alone. Each camera then adds its own faults: glare, haze, blur, noise, gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from emma_core.samples.canvas import OVERSAMPLING
from emma_core.samples.filters import blurred, enlarged, shrunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emma_core.samples.canvas import Canvas, Floats
    from emma_core.samples.stage import Climate

TEXTURES: dict[str, float] = {
    "grain": 2.0,
    "asphalt": 5.0,
    "slabs": 3.2,
    "bricks": 3.0,
    "leaves": 5.0,
    "worn": 4.0,
    "cloth": 1.2,
}
"""Noise textures and the width of one tile in metres."""

_TILE = 256  # texels a side
_HORIZON_HAZE = 0.55
_SPAN = 15.0  # kelvin from there to white, at least


@dataclass(frozen=True)
class Fields:
    """What every pixel of a scene is, before any camera; H and W are those of the image.

    Attributes:
        albedo: (H, W, 3), linear, in [0, 1].
        light: (H, W, 3), emitted linear radiance.
        temperature: (H, W), degrees Celsius; the texture is already in it.
        retro: (H, W), see ``Surface.retro``.
        depth: (H, W), metres along z.
        height: (H, W), metres above the ground.
        across: (H, W), metres to the right of the camera.
        normal: (H, W, 3), unit vectors.
        sky: (H, W), 1 where nothing was painted.
        scenery: (H, W), whether the pixel belongs to no labelled thing.
    """

    albedo: Floats
    light: Floats
    temperature: Floats
    retro: Floats
    depth: Floats
    height: Floats
    across: Floats
    normal: Floats
    sky: Floats
    scenery: NDArray[np.bool_]


def look_up(canvas: Canvas) -> Fields:
    """Turn part numbers into what the cameras need, averaged over the oversampled pixels."""
    glyphs = canvas.glyphs
    rows = [(*g.surface.albedo, *g.surface.light, g.surface.temperature, g.surface.retro, 0.0, 0.0) for g in glyphs]
    table = np.array(rows, np.float32)
    table[0, 8] = 1.0
    phases = [(i, j) for i in range(OVERSAMPLING) for j in range(OVERSAMPLING)]
    mean = np.zeros((*canvas.camera.size, table.shape[1]), np.float32)
    for i, j in phases:
        mean += np.take(table / len(phases), canvas.parts[i::OVERSAMPLING, j::OVERSAMPLING], axis=0)
    parts = native(canvas.parts)
    depth, height, across, normal = _geometry(canvas, parts)
    noise, contrast, warmth = _noise(canvas, parts, depth, height, across, normal)
    scenery = np.array([g.thing == 0 for g in glyphs])[parts]
    return Fields(
        albedo=np.clip(mean[..., :3] * (1 + contrast * noise)[..., None], 0, 0.95),
        light=mean[..., 3:6] * np.clip(1 + contrast * noise, 0.1, 2)[..., None],
        temperature=mean[..., 6] + warmth * noise,
        retro=mean[..., 7],
        depth=depth,
        height=height,
        across=across,
        normal=normal,
        sky=mean[..., 8],
        scenery=scenery,
    )


def native(parts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Pick one of the oversampled part numbers for every pixel: (2 H, 2 W) -> (H, W)."""
    return np.ascontiguousarray(parts[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING])


def visible(canvas: Canvas, fields: Fields, climate: Climate, rng: np.random.Generator) -> Floats:
    """Photograph a scene in visible light.

    Args:
        canvas: the painted scene.
        fields: the same, from :func:`look_up`.
        climate: light and weather.
        rng: draws clouds, smoke and sensor noise.

    Returns:
        (H, W, 3), RGB, float32 in [0, 1], gamma-encoded.
    """
    sky = _sky_light(canvas, climate, rng)
    lit = _lamps(canvas, fields, climate) if climate.night else _daylight(canvas, fields, climate)
    scene = fields.albedo * lit + fields.light
    scene = scene * (1 - fields.sky[..., None]) + sky * fields.sky[..., None]
    scene = _smoke(canvas, fields, climate, scene, rng)
    scene = _haze(fields, climate, scene, sky)
    scene = _glare(fields, climate, scene, canvas.camera.size)
    return _expose(scene, climate, rng)


def infrared(canvas: Canvas, fields: Fields, climate: Climate, rng: np.random.Generator, common_grey: float) -> Floats:
    """Photograph a scene in the thermal infrared.

    Args:
        canvas: the painted scene.
        fields: the same, from :func:`look_up`.
        climate: heat and weather.
        rng: draws the faults of the sensor.
        common_grey: level of the temperature that most of the scene has, in (0, 1).

    Returns:
        (H, W), float32 in [0, 1]; hot is bright, the gain is automatic.
    """
    heat = fields.temperature.copy()
    on_ground = _on_ground(fields)
    heat -= on_ground * (climate.chill + 2.5 * climate.sun * (canvas.cool.astype(np.float32) / 255))
    facing = np.clip(fields.normal @ np.array(canvas.sun, np.float32), 0, None)
    upright = fields.scenery & (np.abs(fields.normal[..., 1]) < 0.5)
    heat += 5.0 * climate.sun * facing * (1 - fields.albedo[..., 1]) * upright
    passed = np.exp(-fields.depth * (0.0012 + 0.03 * climate.fog))
    heat = climate.air + (heat - climate.air) * passed
    upward = np.clip(canvas.camera.rays()[1], 0, None)
    overhead = climate.air - 7 - (14 if climate.fog < 0.004 else 6) * (1 - np.exp(-5 * upward))
    heat = heat * (1 - fields.sky) + overhead * fields.sky
    return _thermal_sensor(heat.astype(np.float32), rng, common_grey)


def _geometry(canvas: Canvas, parts: NDArray[np.int32]) -> tuple[Floats, Floats, Floats, Floats]:
    """Intersect the ray of every pixel with the plane of its part."""
    plane = np.array([(*g.normal, g.offset, g.near, g.far) for g in canvas.glyphs], np.float32)[parts]
    across, upward = canvas.camera.rays()
    slope = plane[..., 0] * across + plane[..., 1] * upward + plane[..., 2]
    slope = np.where(np.abs(slope) < 1e-6, -1e-6, slope)
    depth = np.clip(plane[..., 3] / slope, plane[..., 4], plane[..., 5])
    return depth, depth * upward + np.float32(canvas.camera.height), depth * across, plane[..., :3]


def _noise(
    canvas: Canvas, parts: NDArray[np.int32], depth: Floats, height: Floats, across: Floats, normal: Floats
) -> tuple[Floats, Floats, Floats]:
    """Sample the texture of every pixel at its place in the world; it fades where pixels outgrow its grain."""
    order = list(TEXTURES)
    rows = [
        (order.index(g.surface.texture), _TILE / TEXTURES[g.surface.texture], g.surface.contrast, g.surface.warmth)
        for g in canvas.glyphs
    ]
    look = np.array(rows, np.float32)[parts]
    offset = (parts % _TILE * 37).astype(np.float32)  # parts of one kind must not look alike
    sideways, level = np.abs(normal[..., 0]) > 0.7, np.abs(normal[..., 1]) > 0.7
    u = np.where(sideways, depth, across) * look[..., 1] + offset
    v = np.where(level, depth, height) * look[..., 1] + 3 * offset
    index = look[..., 0].astype(np.int32) * _TILE * _TILE
    index += (v.astype(np.int32) % _TILE) * _TILE + u.astype(np.int32) % _TILE
    noise = textures().ravel()[index] / (1 + (depth / 28) ** 2)
    return np.asarray(noise, np.float32), look[..., 2], look[..., 3]


@lru_cache(maxsize=1)
def textures() -> Floats:
    """Return the noise textures, (7, 256, 256), about zero mean and within [-1, 1]; each one tiles."""
    rng = np.random.default_rng(20230518)
    leaves = np.clip(_octaves(rng, (16, 32, 64, 128), 0.8) * 1.5, -1, 1)
    cracks = -np.clip(1 - np.abs(_octaves(rng, (6, 12, 24), 0.6)) * 22, 0, 1) * 0.8
    asphalt = np.clip(_octaves(rng, (4, 64, 256), 1.1) * 0.8 + cracks, -1, 1)
    made = {
        "grain": _octaves(rng, (32, 128, 256), 0.9),
        "asphalt": asphalt,
        "slabs": _courses(rng, 64, 64, 3, 0.0),
        "bricks": _courses(rng, 16, 32, 2, 0.5),
        "leaves": leaves,
        "worn": _octaves(rng, (4, 12, 48), 0.8),
        "cloth": _octaves(rng, (4, 8, 64), 0.7),
    }
    return np.stack([made[name] for name in TEXTURES]).astype(np.float32)


def _texture(name: str) -> Floats:
    return np.asarray(textures()[list(TEXTURES).index(name)], np.float32)


def _octaves(rng: np.random.Generator, cells: tuple[int, ...], fall: float) -> Floats:
    """Sum smooth value noise of several cell counts per tile, in [-1, 1]."""
    total = np.zeros((_TILE, _TILE), np.float32)
    for step, count in enumerate(cells):
        coarse = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        side = _TILE // count * count
        fine = enlarged(wrapped, (side // count * (count + 4), side // count * (count + 4)))
        border = 2 * side // count
        tile = fine[border : border + side, border : border + side]
        total += fall**step * enlarged(tile, (_TILE, _TILE), smooth=False)
    return np.asarray(np.clip(total / (2.4 * np.abs(total).std()), -1, 1), np.float32)


def _courses(rng: np.random.Generator, tall: int, wide: int, joint: int, shift: float) -> Floats:
    """Lay bricks or slabs of the given size in texels, each of its own shade, with dark joints."""
    rows, columns = np.mgrid[0:_TILE, 0:_TILE]
    course = rows // tall
    moved = (columns + (course % 2) * int(wide * shift)) % _TILE
    shades = rng.uniform(-0.6, 0.8, (_TILE // tall, _TILE // wide))
    wallwork = shades[course, moved // wide] + 0.4 * _octaves(rng, (64, 256), 0.9)
    wallwork[(rows % tall < joint) | (moved % wide < joint)] = -1.0
    return np.asarray(np.clip(wallwork, -1, 1), np.float32)


def _on_ground(fields: Fields) -> NDArray[np.bool_]:
    return (fields.normal[..., 1] > 0.9) & (fields.height < 0.4)


def _daylight(canvas: Canvas, fields: Fields, climate: Climate) -> Floats:
    """Illuminate by sun and sky; the sun is missing in cast shadows."""
    facing = np.clip(fields.normal @ np.array(canvas.sun, np.float32), 0, None)
    soft = blurred(canvas.shade.astype(np.float32) / np.float32(255), 0.6 + 1.5 * (1 - climate.sun))
    free = 1 - soft * _on_ground(fields) * (1.0 if climate.sun else 0.35)
    open_sky = (0.62 + 0.38 * fields.normal[..., 1]) * (free if not climate.sun else 1.0)
    sunshine = 1.15 * climate.sun * facing * free
    sun_colour = np.array([1.0, 0.93, 0.80], np.float32)
    sky_colour = np.array([0.80, 0.92, 1.10], np.float32) * (0.42 + 0.33 * (1 - climate.sun))
    return np.asarray(sunshine[..., None] * sun_colour + open_sky[..., None] * sky_colour, np.float32)


def _lamps(canvas: Canvas, fields: Fields, climate: Climate) -> Floats:
    """Illuminate by lamps, the own headlights and what little comes from a night sky."""
    lit = np.empty_like(fields.albedo)
    lit[...] = np.float32(climate.skyglow) * np.array([0.0030, 0.0034, 0.0038], np.float32)
    level = fields.normal[..., 1] > 0.7
    for lamp in canvas.lights:
        x, y, z = lamp.position
        dx, dy, dz = fields.across - x, y - fields.height, fields.depth - z
        squared = dx * dx + dy * dy + dz * dz + 0.3
        fall = 1 / squared
        if lamp.downward:
            fall *= np.clip(dy / np.sqrt(squared) * 1.6 - 0.35, 0, 1)
        fall *= np.where(level, np.clip(dy, 0, None) / np.sqrt(squared), 0.45)
        lit += fall[..., None] * np.array(lamp.colour, np.float32)
    if climate.beam:
        lit += _headlights(fields, climate)
    return lit


def _headlights(fields: Fields, climate: Climate) -> Floats:
    """Dipped headlights of the own car: they reach the road and the legs of people, and light up reflectors."""
    spread = np.exp(-((fields.across / fields.depth / 0.42) ** 2)) / (fields.depth**2 + 10)
    cut = 1 / (1 + np.exp(np.clip((fields.height - 0.45 + 0.012 * fields.depth) / 0.06, -30, 30)))
    beam = climate.beam * spread * (3.2 * cut + fields.retro * (0.5 + 2.5 * cut))
    return np.asarray(beam[..., None] * np.array([1.0, 0.97, 0.88], np.float32), np.float32)


def _sky_light(canvas: Canvas, climate: Climate, rng: np.random.Generator) -> Floats:
    """Return the radiance of the sky, (H, W, 3): brighter towards the horizon, with clouds."""
    across, upward = canvas.camera.rays()
    rise = np.clip(upward, 0, 1)[..., None]
    if climate.night:
        glow = np.float32(climate.skyglow) * np.array([0.0010, 0.0011, 0.0013], np.float32) * np.exp(-4 * rise)
        return np.broadcast_to(glow + np.float32(0.0002), (*canvas.camera.size, 3)).astype(np.float32)
    blue, pale = np.array([0.22, 0.42, 0.85], np.float32), np.array([0.85, 0.92, 1.0], np.float32)
    clear = pale * np.exp(-3.5 * rise) + blue * (1 - np.exp(-3.5 * rise))
    cloud = np.array([0.86, 0.88, 0.92], np.float32)
    column = (across / (upward + 0.25) * 40 + rng.uniform(0, 256)).astype(np.int32) % _TILE
    row = (30 / (np.clip(upward, 0, None) + 0.25) + rng.uniform(0, 256)).astype(np.int32) % _TILE
    puffs = blurred(_texture("worn")[row, column], 2.0)
    cover = np.clip(puffs * 1.2 + 0.25 + 2.0 * (1 - climate.sun), 0, 1)[..., None]
    return np.asarray(clear * (1 - cover) + cloud * cover * (1 + 0.12 * puffs[..., None]), np.float32)


def _smoke(canvas: Canvas, fields: Fields, climate: Climate, scene: Floats, rng: np.random.Generator) -> Floats:
    """Lay plumes of smoke before whatever stands behind them; infrared passes through."""
    height, width = canvas.camera.size
    row, column = canvas.camera.centre
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    grey = 0.010 if climate.night else 0.42
    puffs = _texture("worn")
    for _ in range(climate.smoke):
        depth = rng.uniform(5.0, 9.0)
        scale = canvas.camera.focal / depth
        x, y = column + rng.uniform(-2.5, 2.5) * scale, row + rng.uniform(-0.2, 0.6) * scale
        spread = ((columns - x) / (1.35 * scale)) ** 2 + ((rows - y) / (1.0 * scale)) ** 2
        turn = [(rng.uniform(0, _TILE) + axis * 60 / scale).astype(np.int32) % _TILE for axis in (rows, columns)]
        ragged = blurred(puffs[turn[0], turn[1]], 1.5)
        alpha = np.clip(1.35 * np.exp(-spread) * (1 + 0.5 * ragged) - 0.12, 0, 0.97) * (fields.depth > depth)
        alpha = blurred(alpha, 0.7)[..., None]
        scene = scene * (1 - alpha) + alpha * np.float32(grey) * (1 + 0.15 * ragged[..., None])
    return scene


def _haze(fields: Fields, climate: Climate, scene: Floats, sky: Floats) -> Floats:
    """Let fog take contrast away with distance and put its own light in."""
    through = np.exp(-np.minimum(fields.depth, 400) * climate.fog)[..., None]
    veil = np.array([0.0045, 0.0045, 0.0042], np.float32) if climate.night else sky.mean(axis=(0, 1)) * _HORIZON_HAZE
    if climate.night:
        veil = veil * np.float32(min(1.0, climate.fog / 0.02))
    return np.asarray(scene * through + veil * (1 - through), np.float32)


def _glare(fields: Fields, climate: Climate, scene: Floats, size: tuple[int, int]) -> Floats:
    """Spread the light of lamps in the lens and the fog, and mirror it in a wet road."""
    height, width = size
    unit = width / 320
    bright = np.clip(scene - (0.15 if climate.night else 1.2), 0, 6)
    small = shrunk(bright, (height // 2, width // 2))
    foggy = min(1.0, climate.fog / 0.02)
    halo = 0.13 * blurred(small, 1.3 * unit) + 0.045 * blurred(small, 4.5 * unit)
    halo += (0.016 + 0.12 * foggy) * blurred(small, 13 * unit)
    if climate.wet:
        streak = blurred(small, 0.8 * unit, 22 * height / 240)
        wet = shrunk(_on_ground(fields).astype(np.float32), (height // 2, width // 2))
        halo += 0.5 * climate.wet * streak * wet[..., None]
    return np.asarray(scene + enlarged(halo, size, smooth=False), np.float32)


def _expose(scene: Floats, climate: Climate, rng: np.random.Generator) -> Floats:
    """Blur, vignetting, shot and read noise, exposure, white balance and gamma."""
    height, width = scene.shape[:2]
    unit = width / 320
    scene = blurred(scene, 0.45 * max(unit, 1.0))
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    vignette = 1 - 0.22 * (rows**2 + columns**2) / 2
    gain = (14.0 if climate.night else 2.1) * rng.uniform(0.85, 1.2)
    exposed = scene * (vignette * gain)[..., None] * np.array(climate.tint, np.float32)
    shot, read = (0.0030, 0.0014) if climate.night else (0.0006, 0.0008)
    grain = rng.standard_normal(scene.shape, np.float32)
    exposed = np.clip(1 - np.exp(-exposed), 0, 1)
    exposed += grain * np.sqrt(read**2 + shot * shot + shot * 0.08 * exposed)
    return np.asarray(np.clip(exposed, 0, 1) ** np.float32(1 / 2.2), np.float32)


def _thermal_sensor(heat: Floats, rng: np.random.Generator, common_grey: float) -> Floats:
    """Blur, noise, column offsets and automatic gain: linear above the common temperature, compressed below."""
    height, width = heat.shape
    unit = max(width / 320, 1.0)
    heat = blurred(heat, 0.75 * unit)
    heat += 0.12 * rng.standard_normal(heat.shape, np.float32)
    heat += 0.14 * rng.standard_normal((1, width), np.float32)
    heat += 0.6 * (np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2 - 0.3)
    middle, hottest = np.percentile(heat[::2, ::2], [60, 99.7])
    above = (heat - middle) / max(float(hottest - middle), _SPAN)
    bright = common_grey + (1 - common_grey) * above
    dark = common_grey * np.exp(np.minimum(above, 0) * ((1 - common_grey) / common_grey))
    return np.asarray(np.clip(np.where(above > 0, bright, dark), 0, 1), np.float32)
