"""Ways to damage a file, drawn by hypothesis, and a watchdog for whoever reads it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from hypothesis import strategies as st

SECONDS = 20
"""No reader may take longer over a file of some kilobytes."""


class Hang(BaseException):
    """A reader takes too long; no ``except Exception`` may swallow it."""


@contextlib.contextmanager
def watchdog() -> Iterator[None]:
    """Interrupt whatever takes too long."""

    def bark(*_: object) -> None:
        raise Hang(f"still reading after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a damaged copy: cut, flipped bits, blocks copied over others, zeroed, random, inserted or removed."""
    data = bytearray(content)
    place = st.integers(0, len(data) - 1)
    start = draw(place)
    length = draw(st.integers(1, 64))
    kind = draw(st.sampled_from(["cut", "flip", "splice", "zero", "random", "insert", "remove"]))
    if kind == "cut":
        del data[start:]
    elif kind == "flip":
        for position in draw(st.lists(place, min_size=1, max_size=4, unique=True)):
            data[position] ^= 1 << draw(st.integers(0, 7))
    elif kind == "splice":
        source = draw(place)
        data[start : start + length] = content[source : source + length]
    elif kind == "zero":
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "random":
        noise = draw(st.binary(min_size=1, max_size=64))
        data[start : start + len(noise)] = noise
    elif kind == "insert":
        data[start:start] = draw(st.binary(min_size=1, max_size=64))
    else:
        del data[start : start + length]
    return bytes(data)
