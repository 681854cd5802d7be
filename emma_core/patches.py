"""Training crops from pairs: random or on a grid, without those that show nothing, augmented if asked for.

Crop number n of a run is a function of the seed and of n alone: the pair, the place, the flips, the exposure and the
teacher. A run therefore goes on anywhere with the data it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from emma_core.chance import stream
from emma_core.errors import DataError
from emma_core.fusers import fusion_method
from emma_core.images import pad_reflect
from emma_core.scenes import SceneImages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from emma_core.images import FloatImage
    from emma_core.scenes import Bytes, Scene, SceneReader
    from emma_core.training_config import CropConfig

    Batch = dict[str, torch.Tensor]

TRIES = 32
"""Crops that are drawn for one that has contrast; the first few from the same pair."""

SAME_PAIR = 4


@dataclass(frozen=True)
class Place:
    """Where a crop is: a scene, and its upper left corner [pixels], or None for a random one."""

    scene: int
    corner: tuple[int, int] | None = None


class Crops(Dataset["Batch"]):
    """Crops by number, without end: ``crops[n]`` belongs to epoch ``n // len(crops)``.

    Each is a dictionary of (1, S, S) float32 in [0, 1]: ``infrared``, ``visible`` and, if teachers were asked for,
    ``teacher``, the fused image by a randomly chosen one.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        reader: SceneReader,
        config: CropConfig,
        seed: int,
        *,
        teachers: bool = False,
        classical: Sequence[str] = (),
    ) -> None:
        """Prepare the crops.

        Args:
            scenes: to cut from.
            reader: of their images.
            config: how to cut.
            seed: of all that is random.
            teachers: whether each crop comes with a fused image.
            classical: fusion rules that are teachers too, applied to the (augmented) crop.

        Raises:
            DataError: no crop has contrast, or a scene has no teacher.
        """
        self._scenes, self._reader, self._config, self._seed = scenes, reader, config, seed
        self._teachers, self._rules = teachers, {name: fusion_method(name).rule for name in classical}
        lost = [scene.key for scene in scenes if teachers and not (scene.teachers or classical)]
        if lost:
            raise DataError(f"{len(lost)} pairs have no fused image by a teacher, first {lost[0]}")
        grid = config.placing == "grid"
        self._places = self._grid() if grid else [Place(index) for index in range(len(scenes))]
        if not self._places:
            raise DataError(f"None of {len(scenes)} pairs has a crop of {config.size} pixels with contrast")
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Return the number of crops in an epoch."""
        return len(self._places)

    def __getitem__(self, number: int) -> Batch:
        """Return crop ``number``, any number from 0.

        Raises:
            DataError: an image has become unreadable, or no crop with contrast is found.
        """
        rng = stream(self._seed, "crop", number)
        place = self._places[self._permuted(*divmod(number, len(self)))]
        for attempt in range(TRIES):
            images = self._cut(place, rng)
            if place.corner or self._shows_something(images):
                return self._finish(images, rng)
            if attempt >= SAME_PAIR:
                place = self._places[rng.integers(len(self))]
        raise DataError(f"No crop with contrast in {TRIES} tries, last in {self._scenes[place.scene].key}")

    def _permuted(self, epoch: int, position: int) -> int:
        if self._order[0] != epoch:
            self._order = epoch, stream(self._seed, "order", epoch).permutation(len(self))
        return int(self._order[1][position])

    def _grid(self) -> list[Place]:
        """List the places of the regular grid that show something."""
        places = []
        for index, scene in enumerate(self._scenes):
            height, width = self._padded(self._reader(scene).infrared).shape
            for top in range(0, height - self._config.size + 1, self._config.stride):
                for left in range(0, width - self._config.size + 1, self._config.stride):
                    place = Place(index, (top, left))
                    if self._shows_something(self._cut(place, stream(self._seed, "grid"))):
                        places.append(place)
        return places

    def _cut(self, place: Place, rng: np.random.Generator) -> SceneImages:
        images = self._reader(self._scenes[place.scene])
        size = self._config.size
        height, width = (max(side, size) for side in images.infrared.shape)
        corner = place.corner or (rng.integers(height - size + 1), rng.integers(width - size + 1))

        def cut(image: Bytes) -> Bytes:
            return self._padded(image)[corner[0] : corner[0] + size, corner[1] : corner[1] + size]

        teachers = {name: cut(image) for name, image in images.teachers.items()} if self._teachers else {}
        return SceneImages(cut(images.infrared), cut(images.visible), teachers)

    def _padded(self, image: Bytes) -> Bytes:
        padded: Bytes = pad_reflect(image, 1, self._config.size)  # type: ignore[arg-type, assignment]
        return padded

    def _shows_something(self, images: SceneImages) -> bool:
        return all(has_contrast(image, self._config.min_contrast) for image in images[:2])

    def _finish(self, images: SceneImages, rng: np.random.Generator) -> Batch:
        """Choose a teacher, augment, and turn bytes into tensors."""
        names = [*images.teachers, *self._rules] if self._teachers else []
        name = names[rng.integers(len(names))] if names else ""
        sources = [image.astype(np.float32) / np.float32(255) for image in images[:2]]
        if name not in images.teachers:  # a fused image on file would no longer fit
            sources = [_expose(image, self._config, rng) for image in sources]
        crop = dict(zip(("infrared", "visible"), sources, strict=True))
        if name in images.teachers:
            crop["teacher"] = images.teachers[name].astype(np.float32) / np.float32(255)
        elif name:
            crop["teacher"] = self._rules[name](*sources)  # type: ignore[misc]
        mirrored = rng.integers(2, size=2) * int(self._config.flips)
        return {name: _tensor(image, mirrored) for name, image in crop.items()}


class Numbers:
    """The numbers of the crops that one process sees, batch by batch from some step on, without end.

    All processes together see every number once: with twice the processes and half the batch, the same crops.
    """

    def __init__(self, start: int, batch: int, accumulate: int, rank: int, world: int) -> None:
        self._start, self._batch, self._accumulate, self._rank, self._world = start, batch, accumulate, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of one batch after the other."""
        turn = self._start * self._accumulate
        while True:
            first = (turn * self._world + self._rank) * self._batch
            yield list(range(first, first + self._batch))
            turn += 1


def crop_batches(crops: Crops, numbers: Numbers, *, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
    """Yield batches of crops, (B, 1, S, S) each, without end.

    Args:
        crops: by number.
        numbers: which of them.
        workers: processes that cut them; 0: this one. It changes nothing but the speed.
        pin: whether the batches are made for a quick way to a GPU.
    """
    # The loader draws a seed for its workers; from a generator of its own, lest it disturb anyone's.
    loader = DataLoader(
        crops,
        batch_sampler=numbers,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
    )
    yield from loader


def has_contrast(image: Bytes, minimum: float) -> bool:
    """Tell whether a crop shows something: (p90 - p10) / p90 >= minimum, by the authors' rule.

    A black crop has none; their code divides zero by zero there and keeps it.

    Args:
        image: (H, W), 8-bit.
        minimum: 0 keeps all but black crops.
    """
    dark, bright = np.percentile(image, [10, 90])
    return bool(bright > 0 and bright - dark >= minimum * bright)


def _expose(image: FloatImage, config: CropConfig, rng: np.random.Generator) -> FloatImage:
    """Change exposure and gamma of half of the images, as another camera or hour would."""
    if config.exposure == 0 == config.gamma or rng.integers(2):
        return image
    stops, power = rng.uniform(-1, 1, 2) * (config.exposure, config.gamma)
    changed: FloatImage = np.clip(image ** np.float32(2**power) * np.float32(2**stops), 0, 1)
    return changed


def _tensor(image: FloatImage, mirrored: NDArray[np.int64]) -> torch.Tensor:
    flipped = np.flip(image, tuple(np.flatnonzero(mirrored).tolist()))
    return torch.from_numpy(np.ascontiguousarray(flipped))[None]
