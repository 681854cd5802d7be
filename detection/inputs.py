"""The images of a row: which they are, and that each can be read and has the size that its boxes are of."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from emma_core.errors import DataError
from emma_core.files import read_bytes
from emma_core.images import read_image
from emma_core.options import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detection.annotations import ImageBoxes
    from detection.bench import Bench
    from emma_core.images import FloatImage
    from emma_core.pairs import Pair
    from emma_core.rows import InputRow


def images_sha256(row: InputRow, pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 over the content of the images of a row, in the order of the pairs.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    with progress_bar(f"{row.name}: reading", len(pairs)) as advance:
        for pair in pairs:
            try:
                digest.update(hashlib.sha256(read_bytes(row.files[pair.key])).digest())
            except OSError as error:
                raise DataError(f"{row.name}: {row.files[pair.key]}: cannot be read ({error.strerror})") from None
            advance()
    return digest.hexdigest()


def check_images(row: InputRow, bench: Bench) -> None:
    """Decode every image of a row on a bench, so that none stops a training, or the test after it.

    Raises:
        ImageError: a file is no image, or damaged.
        DataError: it has another size than its boxes are of.
    """
    images = bench.annotations.images
    pairs = [pair for pair in bench.pairs.pairs if pair.key in row.files]  # a frozen detector needs the test pairs only
    with progress_bar(f"{row.name}: checking", len(pairs)) as advance, ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda pair: read_fitting(row, pair, images[pair.key]), pairs):
            advance()


def read_fitting(row: InputRow, pair: Pair, truth: ImageBoxes) -> FloatImage:
    """Read the image of a row that shows a pair, as :func:`emma_core.images.read_image` does.

    Raises:
        ImageError: it is no image, or damaged.
        DataError: it has another size than its boxes are of.
    """
    image = read_image(row.files[pair.key])
    if image.shape[:2] != (truth.height, truth.width):
        raise DataError(
            f"{row.name}: {row.files[pair.key]} is {image.shape[1]} x {image.shape[0]}, "
            f"its boxes are of {truth.width} x {truth.height}"
        )
    return image
