"""Head phantoms: slices of one head as MRI and as CT, PET or SPECT see them.

One map of tissues gives all four: MRI shows the folds of the brain and no bone, CT shows bone and hardly any folds,
PET and SPECT show where tissue is active, in false colour and blurred. Each sees a lesion that the other does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from emma_core.samples.filters import blurred, enlarged, shrunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emma_core.samples.canvas import Floats

    Mask = NDArray[np.bool_]

MODALITIES = ("CT", "PET", "SPECT")
"""What an MRI slice can be paired with."""

AIR, FAT, BONE, FLUID, GREY, WHITE, DEEP = range(7)
"""Tissues; ``DEEP`` is the grey matter of the basal ganglia."""

_LOOKS: dict[str, tuple[float, ...]] = {
    "T1": (0.0, 0.78, 0.05, 0.10, 0.36, 0.55, 0.42),
    "T2": (0.0, 0.42, 0.04, 0.90, 0.46, 0.28, 0.36),
    "CT": (0.0, 0.16, 1.00, 0.20, 0.42, 0.36, 0.43),
    "PET": (0.0, 0.03, 0.02, 0.04, 0.72, 0.24, 0.80),
    "SPECT": (0.0, 0.07, 0.05, 0.12, 0.70, 0.38, 0.80),
}
_BLUR = {"PET": 0.020, "SPECT": 0.030}  # of the side of the image

_ColourMap = tuple[tuple[float, tuple[int, int, int]], ...]
_COLOURS: dict[str, _ColourMap] = {
    "PET": (
        (0.0, (0, 0, 0)),
        (0.10, (0, 0, 30)),
        (0.28, (0, 40, 160)),
        (0.42, (70, 165, 225)),
        (0.54, (245, 240, 90)),
        (0.70, (255, 200, 0)),
        (0.86, (255, 95, 0)),
        (1.0, (235, 0, 0)),
    ),
    "SPECT": (
        (0.0, (0, 0, 0)),
        (0.10, (18, 34, 36)),
        (0.24, (55, 22, 120)),
        (0.40, (85, 25, 140)),
        (0.55, (215, 85, 80)),
        (0.70, (250, 110, 20)),
        (0.86, (255, 150, 40)),
        (1.0, (255, 245, 215)),
    ),
}


@dataclass(frozen=True)
class Phantom:
    """One slice seen twice.

    Attributes:
        mri: (H, W), float32 in [0, 1].
        other: CT (H, W), or PET or SPECT in false colour (H, W, 3), RGB, float32 in [0, 1].
        only_mri: (H, W), the lesion that the other modality does not show.
        only_other: (H, W), the lesion (for CT: the bleeding) that MRI does not show.
    """

    mri: Floats
    other: Floats
    only_mri: Mask
    only_other: Mask


def render_phantom(seeds: np.random.SeedSequence, modality: str, size: tuple[int, int] = (256, 256)) -> Phantom:
    """Render one slice; equal arguments give equal slices.

    Args:
        seeds: source of everything random.
        modality: what the MRI is paired with, one of :data:`MODALITIES`.
        size: height and width in pixels; the head fits into the smaller of the two.
    """
    rng = np.random.default_rng(seeds)
    side = min(size)
    head = _Head(rng, 2 * side)
    tissue = head.tissues()
    only_mri = head.lesion((WHITE,), 0.055, 0.085)
    only_other = head.lesion((GREY, DEEP), 0.06, 0.09)
    mri = _mri(rng, tissue, only_mri)
    other = _ct(rng, head, only_other) if modality == "CT" else _functional(rng, tissue, only_other, modality)
    masks = _fit(only_mri, size) > 0.5, _fit(only_other, size) > 0.5
    return Phantom(_fit(mri, size), _fit(other, size), *masks)


class _Head:
    """The anatomy of one slice, on a grid of twice the image size; lengths are fractions of half the side."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.rng = rng
        self.side = side
        self.high = float(rng.uniform(0, 1))  # 0: through the ventricles, 1: near the top of the head
        self.middle = (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.02, 0.05)))
        self.map = np.zeros((side, side), np.uint8)

    def tissues(self) -> NDArray[np.uint8]:
        """Draw scalp, skull, fluid, folded grey matter, white matter and what lies deep inside."""
        inside = self._blank()
        cv2.fillPoly(inside, [self._outline()], 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) * (2 / self.side)
        bone = 0.045 + 0.010 * self._waves()
        self.map[depth > 0] = FAT
        self.map[depth > bone] = BONE
        self.map[depth > bone + 0.065] = FLUID
        brain = (depth > bone + 0.085).astype(np.uint8)
        self.map[brain > 0] = WHITE
        folds = self._folds(brain)
        edge = cv2.distanceTransform(brain & (1 - folds), cv2.DIST_L2, 5) * (2 / self.side)
        self.map[(brain > 0) & (edge < 0.050 + 0.010 * self._waves())] = GREY
        self.map[(brain & folds) > 0] = FLUID
        if self.high < 0.72:
            self._centre()
        return self.map

    def lesion(self, tissues: tuple[int, ...], smallest: float, largest: float) -> Mask:
        """Choose a ragged blob about a point of the given tissues, clear of the midline."""
        near = np.isin(self.map, tissues)
        column = np.arange(self.side)[None, :]
        near &= np.abs(column - self._pixel(self.middle)[0]) > 0.12 * self.side / 2
        places = np.flatnonzero(near)
        spot = int(places[int(self.rng.integers(len(places)))]) if len(places) else self.side * self.side // 2
        row, left = divmod(spot, self.side)
        turns = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        radii = self.rng.uniform(smallest, largest) * self.rng.uniform(0.8, 1.2, 20) * self.side / 2
        mask = self._blank()
        rim = np.stack([left + radii * np.cos(turns), row + radii * np.sin(turns)], -1)
        cv2.fillPoly(mask, [np.rint(rim).astype(np.int32)], 1)
        return (mask > 0) & (self.map >= FLUID)

    def dots(self, count: int) -> Mask:
        """Choose small calcifications near the midline."""
        mask = self._blank()
        for _ in range(count):
            place = (self.middle[0] + self.rng.uniform(-0.16, 0.16), self.middle[1] + self.rng.uniform(-0.1, 0.3))
            cv2.circle(mask, self._pixel(place), max(1, round(self.rng.uniform(0.012, 0.022) * self.side / 2)), 1, -1)
        return (mask > 0) & np.isin(self.map, (FLUID, GREY, WHITE, DEEP))

    def _blank(self) -> NDArray[np.uint8]:
        return np.zeros((self.side, self.side), np.uint8)

    def _pixel(self, place: tuple[float, float]) -> tuple[int, int]:
        return round((1 + place[0]) * self.side / 2), round((1 + place[1]) * self.side / 2)

    def _outline(self) -> NDArray[np.int32]:
        """Return the contour of the head: an egg, nose up, smaller near the top of the head."""
        turns = np.linspace(0, 2 * math.pi, 180, endpoint=False)
        scale = 1.0 - 0.22 * self.high**2
        wobble = sum(self.rng.uniform(-0.012, 0.012) * np.cos(k * turns + self.rng.uniform(0, 6)) for k in (2, 3, 5))
        wide = self.rng.uniform(0.66, 0.72) * (1 + 0.06 * np.sin(turns))
        tall = self.rng.uniform(0.80, 0.86)
        x = self.middle[0] + scale * wide * np.cos(turns) * (1 + wobble)
        y = self.middle[1] + scale * tall * np.sin(turns) * (1 + wobble)
        return np.asarray(np.rint((1 + np.stack([x, y], -1)) * self.side / 2), np.int32)

    def _waves(self) -> Floats:
        """Return smooth noise in about [-1, 1], (side, side)."""
        coarse = self.rng.uniform(-1, 1, (9, 9)).astype(np.float32)
        return enlarged(coarse, (self.side, self.side))

    def _folds(self, brain: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw the furrows: wavy lines from the surface inward, and the cleft between the halves."""
        mask = self._blank()
        contours, _ = cv2.findContours(brain, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        rim = max(contours, key=len)[:, 0].astype(np.float64)
        count = int(self.rng.integers(30, 40))
        width = max(1, round(0.011 * self.side / 2))
        for start in rim[np.linspace(0, len(rim) - 1, count).astype(int)]:
            line = self._furrow(start, self.rng.uniform(0.08, 0.27))
            cv2.polylines(mask, [line], isClosed=False, color=1, thickness=width + int(self.rng.integers(0, 2)))
        top, bottom = rim[rim[:, 1].argmin()], rim[rim[:, 1].argmax()]
        steps = np.linspace(0, 1, 24)[:, None]
        cleft = top + (bottom - top) * steps
        cleft[:, 0] += self.rng.normal(0, 0.006, 24) * self.side / 2
        whole = np.ones(24, bool) if self.high >= 0.72 else np.abs(steps[:, 0] - 0.52) > 0.17
        for part in (whole & (steps[:, 0] < 0.5), whole & (steps[:, 0] >= 0.5)):
            cv2.polylines(mask, [np.rint(cleft[part]).astype(np.int32)], False, 1, width)
        return mask

    def _furrow(self, start: NDArray[np.float64], length: float) -> NDArray[np.int32]:
        """Walk inward from the surface in a wavy line, (12, 2) pixels."""
        target = np.array(self._pixel((self.middle[0], self.middle[1] + self.rng.uniform(-0.3, 0.3))), float)
        inward = (target - start) / (np.linalg.norm(target - start) + 1e-9)
        aside = np.array([-inward[1], inward[0]])
        steps = np.linspace(0, length, 12)
        sway = 0.035 * np.sin(steps * self.rng.uniform(18, 34) + self.rng.uniform(0, 6))
        sway += steps * self.rng.normal(0, 0.35)
        walk = start + (steps[:, None] * inward + sway[:, None] * aside) * self.side / 2
        return np.asarray(np.rint(walk), np.int32)

    def _centre(self) -> None:
        """Draw thalami, basal ganglia and the ventricles, mirrored about the midline."""
        wide = float(self.rng.uniform(0.75, 1.5))
        for sign in (-1, 1):
            self._oval(DEEP, sign * 0.13, 0.08, 0.085, 0.13, sign * 12)
            self._oval(DEEP, sign * 0.27, -0.02, 0.055, 0.15, sign * 10)
            self._oval(DEEP, sign * 0.15, -0.17, 0.04, 0.09, -sign * 14)
        for sign in (-1, 1):
            self._oval(FLUID, sign * 0.075, -0.16, 0.034 * wide, 0.13, -sign * 16)
            self._oval(FLUID, sign * 0.05, 0.0, 0.020 * wide, 0.09, sign * 6)
            self._oval(FLUID, sign * 0.15, 0.25, 0.036 * wide, 0.13, sign * -22)
        self._oval(FLUID, 0.0, 0.10, 0.013 * wide, 0.08, 0)

    def _oval(self, tissue: int, x: float, y: float, across: float, down: float, tilt: float) -> None:
        middle = self._pixel((self.middle[0] + x, self.middle[1] + y))
        axes = (max(1, round(across * self.side / 2)), max(1, round(down * self.side / 2)))
        cv2.ellipse(self.map, middle, axes, tilt, 0, 360, tissue, -1)


def _mri(rng: np.random.Generator, tissue: NDArray[np.uint8], lesion: Mask) -> Floats:
    """See soft tissue, T1- or T2-weighted, with an uneven coil and Rician noise."""
    kind = "T1" if rng.random() < 0.45 else "T2"
    image = np.array(_LOOKS[kind], np.float32)[tissue]
    image[lesion] = 0.20 if kind == "T1" else 0.80
    coarse = rng.uniform(0.85, 1.1, (4, 4)).astype(np.float32)
    image *= enlarged(coarse, image.shape)
    grain = 0.035 * rng.standard_normal((2, *image.shape), np.float32)
    image = np.hypot(image + grain[0], 0.6 * grain[1]) - 0.035
    return blurred(image, 1.1)


def _ct(rng: np.random.Generator, head: _Head, bleeding: Mask) -> Floats:
    """See bone, calcium and blood; folds hardly show. The head rest is in the picture."""
    image = np.array(_LOOKS["CT"], np.float32)[head.map]
    image = blurred(image, 2.2)
    image[bleeding] = 0.66
    image[head.dots(int(rng.integers(3, 7)))] = 0.95
    image += 0.03 * rng.standard_normal(image.shape, np.float32) * (head.map > 0)
    side = head.side
    if rng.random() < 0.6:
        middle = (side // 2, round(0.50 * side))
        cv2.ellipse(image, middle, (round(0.49 * side), round(0.49 * side)), 0, 20, 60, 0.9, max(1, side // 110))
        cv2.ellipse(image, middle, (round(0.49 * side), round(0.49 * side)), 0, 120, 160, 0.9, max(1, side // 110))
    return blurred(image, 0.9)


def _functional(rng: np.random.Generator, tissue: NDArray[np.uint8], focus: Mask, modality: str) -> Floats:
    """See activity, blurred, noisy and in false colour; one focus is overactive."""
    activity = np.array(_LOOKS[modality], np.float32)[tissue]
    coarse = rng.uniform(0.72, 1.12, (7, 7)).astype(np.float32)
    activity *= enlarged(coarse, activity.shape)
    activity[focus] = 1.45
    side = activity.shape[0]
    counts = rng.standard_normal(activity.shape, np.float32) * (2.2 if modality == "SPECT" else 1.0)
    spread = _BLUR[modality] * side
    activity = blurred(activity + counts * (0.25 + activity), spread)
    return _false_colour(np.clip(activity * 1.12, 0, 1), _COLOURS[modality])


def _false_colour(values: Floats, colours: _ColourMap) -> Floats:
    """Map [0, 1], (H, W), to RGB in [0, 1], (H, W, 3), by straight lines between anchors."""
    stops = [stop for stop, _ in colours]
    channels = [np.interp(values, stops, [colour[c] / 255 for _, colour in colours]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _fit(image: Floats | Mask, size: tuple[int, int]) -> Floats:
    """Halve a square image and put it in the middle of a black one of the given size."""
    side = min(size)
    small = shrunk(image.astype(np.float32), (side, side))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    fitted = np.zeros((*size, *small.shape[2:]), np.float32)
    fitted[top : top + side, left : left + side] = np.clip(small, 0, 1)
    return fitted
