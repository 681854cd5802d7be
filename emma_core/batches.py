"""Batches for an accelerator: pairs of equal size, gathered from the threads that read and write their images.

A GPU fuses one pair in less time than a core needs to read and write it, and eight pairs in less than eight times
that. So many threads read and write, and what they have ready when the device becomes free goes there together.
"""

from __future__ import annotations

from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

import torch

from emma_core.errors import EmmaError

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 8
"""Most pairs in a batch."""

WAITING = 3 * AT_ONCE
"""Threads that read and write for the device: a batch that is read, one that is computed, and one that is written."""

PIXELS = 2**22
"""Most pixels of a batch, as far as it has more than one pair: working memory stays that of four megapixels."""


def pairs_at_once(height: int, width: int) -> int:
    """Say how many pairs of a size [pixels] make a batch."""
    return max(1, min(AT_ONCE, PIXELS // (height * width)))


class Batches:
    """A function of batches on a device, for callers in many threads that have one pair each.

    A batch is always full, if need be of copies: then its shape, and with it what the device's libraries choose to
    compute it by, is the same for all images of a size, and no image depends on which others it came with.
    """

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], device: torch.device) -> None:
        """Take the function, two (B, 1, H, W) on the device to one, and the device."""
        self._function, self._device = function, device
        self._waiting: list[_Request] = []
        self._turn = Lock()

    def __call__(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Fuse a pair, alone or together with those of other threads.

        Args:
            infrared: (1, 1, H, W) float32 in main memory.
            visible: likewise.

        Returns:
            The fused image, likewise.

        Raises:
            EmmaError: the device's memory does not suffice for a batch.
        """
        request = _Request(infrared, visible)
        self._waiting.append(request)
        with self._turn:  # whoever waits for it is likely to find its image fused, in the batch of another
            if not request.fused.done():
                self._fuse_with_others(request)
        return request.fused.result()

    def _fuse_with_others(self, request: _Request) -> None:
        """Fuse a batch of those that wait and have the same size, this one among them."""
        size = pairs_at_once(*request.pair.shape[-2:])
        others = [one for one in self._waiting if one is not request and one.pair.shape == request.pair.shape]
        batch = [request, *others[: size - 1]]
        for one in batch:
            self._waiting.remove(one)
        try:
            images = self._on_device([one.pair for one in batch], size)
        except BaseException as error:
            for one in batch:  # all of them have to know
                one.fused.set_exception(error)
        else:
            for one, image in zip(batch, images, strict=False):
                one.fused.set_result(image[None])

    def _on_device(self, pairs: list[torch.Tensor], size: int) -> torch.Tensor:
        """Fuse pairs, (2, 1, H, W) each, in a batch of a size; the result, (size, 1, H, W), is in main memory."""
        # From pinned memory the device fetches the images itself; torch keeps such blocks for the next batch.
        pinned = self._device.type == "cuda"
        staged = torch.empty((2, size, *pairs[0].shape[1:]), dtype=pairs[0].dtype, pin_memory=pinned)
        filled = pairs + pairs[:1] * (size - len(pairs))
        torch.stack(filled, 1, out=staged)
        try:
            return self._function(*staged.to(self._device, non_blocking=True)).cpu()
        except torch.OutOfMemoryError:
            height, width = staged.shape[-2:]
            raise EmmaError(
                f"the memory of {self._device} is too small for a batch of {size} pairs of {height} x {width} pixels; "
                "continue in tiles with --tile 512 --overwrite, or with --device cpu --overwrite"
            ) from None


class _Request:
    """A pair that waits for the device."""

    def __init__(self, infrared: torch.Tensor, visible: torch.Tensor) -> None:
        self.pair = torch.cat([infrared, visible])
        self.fused: Future[torch.Tensor] = Future()
