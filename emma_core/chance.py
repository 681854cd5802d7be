"""Where chance comes from in training: every draw is a function of a seed, a purpose and a number.

So a run that was stopped and goes on at step 1000 draws what a run draws that never stopped, without replaying the
first thousand steps and without any state to keep.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return numpy's generator for one purpose, e.g. ``stream(seed, "crop", 17)``; numbers are not negative."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def torch_stream(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return torch's generator (on the CPU) for one purpose; see :func:`stream`."""
    import torch  # takes seconds, and the report, which reads intervals, does without

    return torch.Generator().manual_seed(int(stream(seed, purpose, *numbers).integers(2**63)))


@contextlib.contextmanager
def seeded(seed: int, purpose: str, *numbers: int) -> Iterator[None]:
    """Give whatever draws from torch's global generators (initial weights, dropout) the numbers of one purpose.

    The generators go back to their state afterwards.
    """
    import torch

    state = torch_stream(seed, purpose, *numbers)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.set_rng_state(state.get_state())
        if devices:
            torch.cuda.manual_seed(state.initial_seed())
        yield
