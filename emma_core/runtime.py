"""Where and how things are computed: device, precision, and a record of the environment."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from emma_core import __version__
from emma_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Executor, Future

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


AHEAD = 16
"""Items a worker may be ahead of the result that is awaited: the others go on while one takes long."""


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that exists.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if name == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"Unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise UsageError(f"Device {name!r} is not available here; use --device auto or --device cpu")
    return device


def resolve_dtype(precision: str) -> torch.dtype:
    """Return the number format of a network for ``fp32`` or ``bf16``.

    Raises:
        UsageError: any other name.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"Unknown precision {precision!r}; expected {' or '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn ``auto`` into the fastest number format that a device computes in natively; others stay.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``.
        device: where the network runs.

    Returns:
        ``fp32`` or ``bf16``: bf16 on a processor with AVX512-BF16 or AMX and on a GPU of capability 8.0 or newer.

    Raises:
        UsageError: any other name.
    """
    if name != "auto":
        if name not in PRECISIONS:
            raise UsageError(f"Unknown precision {name!r}; expected auto, {' or '.join(PRECISIONS)}")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    # Elsewhere bf16 is emulated, which is slower than fp32; torch before 2.6 does not say.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return "bf16" if device.type == "cpu" and native() else "fp32"


def map_images(
    function: Callable[[Item], Outcome], items: Sequence[Item], device: torch.device, *, at_once: int = 1
) -> Generator[Outcome, None, None]:
    """Apply a function to every item, in order; on a CPU one item per core at a time.

    Independent images scale better over cores than the threads inside one image's kernels, which wait for each
    other after every operation; so those are switched off meanwhile.

    Args:
        function: computes on ``device``; its kernels must not depend on global state.
        items: what to apply it to.
        device: where it computes.
        at_once: on an accelerator, how many items at a time: more than one where they gather into batches.

    Yields:
        The results, in the order of the items.
    """
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else at_once
    if workers == 1:
        yield from map(function, items)
        return
    _tune_heap()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from _in_order(pool, function, items, AHEAD * workers)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _in_order(
    pool: Executor, function: Callable[[Item], Outcome], items: Sequence[Item], ahead: int
) -> Iterator[Outcome]:
    """Map in order, but submit only so many items ahead of the result that is awaited: ``Executor.map`` submits all."""
    waiting: deque[Future[Outcome]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def environment(device: torch.device | None = None, *packages: str) -> dict[str, str | int]:
    """Describe what a result was computed with: versions, those of more packages too, machine, device, threads."""
    used = device or torch.device("cpu")
    return {
        "emma-tasks": __version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),  # from one seed, another kind trains other weights
        "device": torch.cuda.get_device_name(used) if used.type == "cuda" else used.type,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """Name the processor as well as this system can."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_mib(entry: str) -> float:
    """Read the memory of this process [MiB].

    Args:
        entry: ``VmHWM`` for its peak, ``VmRSS`` for now; only Linux knows both, elsewhere either is the peak.
            getrusage is no help on Linux: the peak of a new process begins with that of the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # Unix only

        scale = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    line = next(line for line in status.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 2**10


def _tune_heap() -> None:
    """Let threads share one heap that keeps what is freed for the next image, where the C library is glibc.

    By default each thread gets a heap of its own, which cost a quarter of the memory of two threads, and the top of a
    heap goes back to the system after nearly every operation, which cost a twentieth of the time. Large blocks are not
    kept: those of 768 x 1024 pixels left holes in the heap, a third of the memory; without, they take a sixth longer.
    """
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # M_ARENA_MAX and so on, of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_threshold, 6 * 2**20)
        libc.mallopt(trim_threshold, 32 * 2**20)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
