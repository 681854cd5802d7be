"""One way of the benchmark in a process of its own: ``python -m emma_core.benchmark_worker``, started by the benchmark.

It fuses all pairs for every line that it reads, and answers with a :class:`~emma_core.benchmark.Turn` as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emma_core.batches import WAITING
from emma_core.benchmark import Job, Turn, Way
from emma_core.benchmark_plain import plain_copy
from emma_core.checkpoint import load_ufuser
from emma_core.datasets import folder_spec
from emma_core.fuse import fuse_pair
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import SHIPPED_WEIGHTS, Fuser, load_fuser
from emma_core.images import pad_reflect, read_grey, read_image, write_image
from emma_core.models.frozen import FrozenUFuser
from emma_core.pairs import find_pairs
from emma_core.runtime import map_images, memory_mib, resolve_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emma_core.benchmark import Arrays, Run
    from emma_core.pairs import PairSet


class Worker:
    """One way in its own process."""

    def __init__(self, job: Job, way: Way, place: Path) -> None:
        self.job, self.way, self.place = job, way, place
        self.device = resolve_device(job.device)
        if job.threads:
            torch.set_num_threads(job.threads)
        weights = job.weights or SHIPPED_WEIGHTS
        self.fuser = (
            load_fuser("EMMA", weights=weights, device=job.device, precision=way.precision)
            if way.precision
            else _plain_fuser(weights, self.device)
        )
        self.outputs: Arrays = []
        self.run = self._network() if way.stage == "network" else self._files()

    def serve(self) -> None:
        """Fuse all pairs for every line that comes in, and answer with what it took.

        At the end of the lines, keep the output and say how many operations the network needs for a pair.
        """
        loaded = _loaded_mib(self.device)
        for _ in sys.stdin:
            begun = time.perf_counter()
            self.run()
            seconds = time.perf_counter() - begun
            turn = Turn(seconds, _peak_mib(self.device), loaded)
            print(json.dumps(turn._asdict()), flush=True)  # noqa: T201 - the parent reads it
        if self.outputs:
            np.save(self.place / f"{self.way.name}.npy", np.stack(self.outputs))
        print(self._flops() if self.way.stage == "network" else "nan")  # noqa: T201 - likewise

    def _network(self) -> Run:
        """Images in memory: one pair per core at a time, on a GPU in batches; the plain way one after the other."""
        pairs = [
            tuple(
                torch.from_numpy(pad_reflect(read_grey(path), self.fuser.stride, self.fuser.min_size))[None, None]
                for path in (pair.infrared, pair.visible)
            )
            for pair in self._pairs().pairs
        ]

        def fuse(pair: tuple[torch.Tensor, ...]) -> NDArray[np.float32]:
            return self.fuser(*pair)[0, 0].numpy()

        def run() -> None:
            several = self.way.precision is not None
            fused = map_images(fuse, pairs, self.device, at_once=WAITING) if several else map(fuse, pairs)
            self.outputs = list(fused)

        return run

    def _files(self) -> Run:
        """Read, fuse, write: by fuse-dataset, or in a plain loop."""
        pairs, out = self._pairs(), self.place / self.way.name

        def loop() -> None:
            for pair in pairs.pairs:
                images = read_image(pair.infrared), read_image(pair.visible)
                write_image(out / f"{pair.id}.png", fuse_pair(*images, self.fuser))

        def library() -> None:
            fuse_dataset(pairs, self.fuser, out, overwrite=True)

        return library if self.way.precision else loop

    def _pairs(self) -> PairSet:
        root = self.place / "M3FD"
        return find_pairs(folder_spec("samples", root / "Ir", root / "Vis", split=""), root)

    def _flops(self) -> float:
        """Count the operations of the network for one pair [1]: shapes alone tell, so nothing is computed."""
        from torch.utils.flop_counter import FlopCounterMode

        network = load_ufuser(self.job.weights or SHIPPED_WEIGHTS)[0]
        counted = FrozenUFuser(network) if self.way.precision else plain_copy(network)
        sides = (math.ceil(side / network.stride) * network.stride for side in (self.job.height, self.job.width))
        image = torch.empty(1, 1, *sides, device="meta")
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            counted.to("meta")(image, image)
        return float(counter.get_total_flops())


def _plain_fuser(weights: Path, device: torch.device) -> Fuser:
    network = load_ufuser(weights)[0]
    plain = plain_copy(network).eval().to(device)

    def function(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            fused: torch.Tensor = plain(infrared.to(device), visible.to(device))
        return fused.cpu()

    return Fuser("plain", function, stride=network.stride, min_size=network.min_size, device=device)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return memory_mib("VmHWM")


def _loaded_mib(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else memory_mib("VmRSS")


def _main() -> None:
    job, way, place = json.loads(sys.argv[1])
    job["weights"] = Path(job["weights"])
    Worker(Job(**job), Way(*way), Path(place)).serve()


if __name__ == "__main__":
    _main()
