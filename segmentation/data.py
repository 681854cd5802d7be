"""What a segmenter is trained and tested on: pairs, their masks, and the images of one row, by number.

Which pairs are for training and which for testing is settled once, for all rows; a row only says which image of a
pair the network sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from emma_core.chance import stream
from emma_core.errors import DataError
from emma_core.images import read_image, size_text, to_8bit
from emma_core.manifest import file_sha256
from emma_core.pairs import PairSet, find_pairs, split_hash
from emma_core.runtime import map_images
from segmentation.augment import vary
from segmentation.labels import UNLABELLED, SegmentationSpec, find_masks, read_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from emma_core.pairs import Fault
    from emma_core.rows import InputRow
    from segmentation.augment import Levels
    from segmentation.recipes import SegmentationTraining

    Sample = dict[str, torch.Tensor]

CACHE_BYTES = 4 * 2**30
"""Images beyond this are read again whenever they are needed; 3,000 of 640 x 480 fit."""


@dataclass(frozen=True)
class SegmentationData:
    """The pairs of both parts, and their masks.

    Attributes:
        spec: the label set.
        train: pairs to train on.
        test: pairs to test on.
        masks: file of each pair's mask, by ``split/id``.
        unlabelled: number of pairs that were left out because they have no mask.
        foreign_labels: whether the masks are from another folder than the data set declares.
    """

    spec: SegmentationSpec
    train: PairSet
    test: PairSet
    masks: Mapping[str, Path]
    unlabelled: int = 0
    foreign_labels: bool = False

    @property
    def dataset(self) -> str:
        """What results call it: the label set, and that of a rendered sample is a sample's."""
        pairs = self.test
        return pairs.dataset.replace(self.spec.pairs_spec().name, self.spec.name, 1)

    @property
    def pairs(self) -> PairSet:
        """The pairs of both parts together, which every row must cover."""
        return replace(self.test, pairs=self.train.pairs + self.test.pairs, label="all", listed=None)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Pairs that cannot be used, with reasons."""
        return tuple(dict.fromkeys(self.train.faults + self.test.faults))

    @property
    def hash(self) -> str:
        """SHA-256 over what is trained on and what is tested on."""
        parts = {"train": self.train, "test": self.test}
        return split_hash(f"{part} {pair.key}" for part, pairs in parts.items() for pair in pairs.pairs)

    def labels_hash(self) -> str:
        """SHA-256 over the content of all masks, and what their ids mean where that is not the usual."""
        lines = [f"{key} {file_sha256(path)}" for key, path in self.masks.items()]
        return split_hash([*lines, "ids from 1"] if self.spec.first_id else lines)


def find_data(
    spec: SegmentationSpec,
    root: Path,
    *,
    train_list: Path | None = None,
    test_list: Path | None = None,
    labels: Path | None = None,
) -> SegmentationData:
    """Find the pairs and masks of a data set.

    Args:
        spec: the label set.
        root: folder that holds the data set.
        train_list: ids of the pairs to train on, one a line; by default the split ``train``.
        test_list: likewise to test on; by default the split ``test``.
        labels: folder of masks instead of the declared ones.

    Returns:
        The data.

    Raises:
        DataError: a part or a mask is missing, or a pair is in both parts.
    """
    train = _part(spec, root, "train", train_list)
    test = _part(spec, root, "test", test_list)
    both = {pair.key for pair in train.pairs} & {pair.key for pair in test.pairs}
    if both:
        raise DataError(f"{len(both)} pairs are to be trained on and tested on, first {min(both)}; expected none")
    masks: dict[str, Path] = {}
    for part, declared in ((train, spec.train_labels or spec.labels), (test, spec.labels)):
        masks |= find_masks(spec, root, part.pairs, labels.resolve() if labels else declared)
    _refuse_shared(masks)
    unlabelled = len(train.pairs) + len(test.pairs) - len(masks)
    return SegmentationData(
        spec, _labelled(train, masks), _labelled(test, masks), masks, unlabelled, foreign_labels=labels is not None
    )


def _refuse_shared(masks: Mapping[str, Path]) -> None:
    """Refuse to give two pairs one mask: parts of a data set may repeat their ids."""
    owners: dict[Path, str] = {}
    for key, path in masks.items():
        if owners.setdefault(path, key) != key:
            raise DataError(
                f"{path}: may be the label of {owners[path]} or of {key}; expected a folder of labels for each part"
            )


def check_inputs(data: SegmentationData, rows: Sequence[InputRow], on_pair: Callable[[], None] = lambda: None) -> None:
    """Read every mask, and every image of every row, before anything is trained.

    Args:
        data: pairs and masks.
        rows: whose images are read.
        on_pair: called after each pair, for a progress bar.

    Raises:
        DataError: a mask does not hold class ids, an image cannot be read, or their sizes differ; it names the file.
            Or the labelled pixels of a part are of a single class, if there are any.
    """

    def classes_in(key: str) -> set[int]:
        mask = read_mask(data.masks[key], data.spec)
        for row in rows:
            found = read_image(row.files[key]).shape[:2]
            if found != mask.shape:
                raise DataError(
                    f"{data.masks[key]}: the label is {size_text(mask.shape)}, the image {row.files[key]} of row "
                    f"{row.name} is {size_text(found)}; expected one size"
                )
        return set(np.flatnonzero(np.bincount(mask.ravel())).tolist()) - {UNLABELLED}

    for name, part in (("train", data.train), ("test", data.test)):
        classes: set[int] = set()
        for found in map_images(classes_in, [pair.key for pair in part.pairs], torch.device("cpu")):
            classes |= found
            on_pair()
        _refuse_one_class(data, f"the {len(part.pairs)} masks to {name} on", classes, part.pairs[0].key)


def _refuse_one_class(data: SegmentationData, masks: str, classes: set[int], first: str) -> None:
    """Refuse masks that tell nothing apart, as black and white ones do whose white is declared to be ignored."""
    if len(classes) > 1:
        return
    shown = [data.spec.classes[one] for one in classes]
    shown += [] if data.spec.ignore is None else [f"{data.spec.ignore}, which is ignored"]
    raise DataError(
        f"{data.spec.name}: all pixels of {masks} are {' or '.join(shown)}; expected ids of two classes at least, "
        f"e.g. in {data.masks[first]}"
    )


def images_hash(row: InputRow, pairs: Iterable[str]) -> str:
    """Return the SHA-256 over the content of a row's images of some pairs, given by ``split/id``."""
    return split_hash(f"{key} {file_sha256(row.files[key])}" for key in pairs)


def read_levels(path: Path) -> Levels:
    """Read an image as the network sees it: (H, W, 3) uint8; grey images have three equal channels.

    Raises:
        DataError: the file cannot be read.
    """
    levels = to_8bit(read_image(path))
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


class RowImages:
    """The images of one row, and their masks, by position; keeps what fits into memory."""

    def __init__(self, row: InputRow, data: SegmentationData, pairs: PairSet, cache_bytes: int = CACHE_BYTES) -> None:
        """Name the images.

        Args:
            row: which image of a pair.
            data: whose masks.
            pairs: one part of the data.
            cache_bytes: how much may be kept in memory.
        """
        self._files = [(row.files[pair.key], data.masks[pair.key]) for pair in pairs.pairs]
        self._spec, self._room = data.spec, cache_bytes
        self._cache: dict[int, tuple[Levels, Levels]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Levels, Levels]:
        """Return an image, (H, W, 3) uint8, and its mask, (H, W) uint8.

        Raises:
            DataError: a file has become unreadable.
        """
        if index in self._cache:
            return self._cache[index]
        image, mask = self._files[index]
        found = read_levels(image), read_mask(mask, self._spec)
        if (size := sum(levels.nbytes for levels in found)) <= self._room:
            self._room -= size
            self._cache[index] = found
        return found


class Samples(Dataset["Sample"]):
    """Varied training images by number, without end: ``samples[n]`` belongs to epoch ``n // len(samples)``.

    Sample n is a function of the seed and of n alone, so a run goes on anywhere with what it would have seen. Each
    has ``image``, (3, H, W) float32 in [0, 1], and ``mask``, (H, W) int64.
    """

    def __init__(self, images: RowImages, training: SegmentationTraining, seed: int) -> None:
        """Prepare the samples of a run."""
        self._images, self._training, self._seed = images, training, seed
        self._order = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return len(self._images)

    def __getitem__(self, number: int) -> Sample:
        """Return sample ``number``, any number from 0."""
        image, mask = self._images[self._permuted(*divmod(number, len(self)))]
        image, mask = vary(image, mask, self._training, stream(self._seed, "vary", number))
        return {"image": as_input(image), "mask": torch.from_numpy(mask.astype(np.int64))}

    def _permuted(self, epoch: int, position: int) -> int:
        if self._order[0] != epoch:
            self._order = epoch, stream(self._seed, "order", epoch).permutation(len(self))
        return int(self._order[1][position])


def as_input(image: Levels) -> torch.Tensor:
    """Turn (H, W, 3) uint8 into (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _part(spec: SegmentationSpec, root: Path, name: str, listed: Path | None) -> PairSet:
    """Find the pairs of one part: those that a list names, or a split of the data set."""
    pairs = spec.pairs_spec()
    if listed:
        return find_pairs(pairs, root, split_file=listed)
    known = [part.name for part in pairs.splits]
    advice = f"give --{name}-list FILE: its ids, one a line"
    if name not in known:
        raise DataError(f"{pairs.name} has no part {name}, only {', '.join(known)}; {advice}")
    try:
        return find_pairs(pairs, root, split=name)
    except DataError as error:
        raise DataError(f"{error}. Without a folder {name}, {advice}") from None


def _labelled(part: PairSet, masks: Mapping[str, Path]) -> PairSet:
    return replace(part, pairs=tuple(pair for pair in part.pairs if pair.key in masks))
