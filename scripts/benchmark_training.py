"""Time one step of stage III by recipe ``released`` beside a plain loop that computes the same gradient.

    python scripts/benchmark_training.py [--precision fp32] [--batch 4] [--crop 128] [--steps 3] [--threads N] [--out F]
    python scripts/benchmark_training.py --profile [--precision fp32] [--batch 1] [--steps 3] [--threads N]

The plain loop is written as one would: the sensing networks in evaluation mode but with gradients, the ten copies
concatenated on the batch, one loss, one backward pass, memory in the usual order, and the fuser of
emma_core.benchmark_plain. Each loop runs in a process of its own, from the same weights on the same
data; they take turns, so that whatever else the machine does hits both, and must agree on the loss and the norm of the
gradient. Prints the ratio of the median times and of the peak memory: of the process on a CPU, of the allocator on a
GPU. The exit status is 1 where the loops disagree, not where one is slow.

With ``--profile`` our loop runs alone, and says where the processor's time goes. On a CPU only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emma_core.benchmark import machine, write_figures
from emma_core.benchmark_plain import plain_copy
from emma_core.chance import seeded, stream, torch_stream
from emma_core.engine import Engine
from emma_core.equivariance import apply_all, draw
from emma_core.losses import l1_and_gradient
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.pairs import Pair
from emma_core.patches import Crops, Numbers, crop_batches
from emma_core.runtime import memory_mib
from emma_core.scenes import Scene, SceneImages
from emma_core.stages import FuserStep, Sensing, freeze
from emma_core.training_config import training_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    Batch = dict[str, torch.Tensor]
    Step = Callable[[Batch, int], float]

SEED = 7
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
RECIPE = training_recipe("released")
TARGET_SPEED, TARGET_MEMORY = 2.0, 0.7


def networks() -> tuple[UFuser, SensingUNet, SensingUNet]:
    """Build the fuser and both sensing networks of the recipe, with the weights that the seed gives."""
    with seeded(SEED, "benchmark"):
        fuser = UFuser(RECIPE.fuser.network)
        return fuser, SensingUNet(RECIPE.sensing.network).eval(), SensingUNet(RECIPE.sensing.network).eval()


def noise_batch(batch: int, crop: int, device: torch.device) -> Batch:
    """Draw noise in place of images: (batch, 1, crop, crop) each. The time does not depend on what they show."""
    rng = stream(SEED, "noise")
    return {
        name: torch.from_numpy(rng.random((batch, 1, crop, crop), "float32")).to(device)
        for name in ("infrared", "visible")
    }


def plain_step(engine: Engine) -> tuple[nn.Module, Step]:
    """Make the step of a plain loop."""
    ours, *sensing = networks()
    fuser, infrared, visible = (
        network.to(engine.device).to(memory_format=torch.contiguous_format) for network in (plain_copy(ours), *sensing)
    )
    weights = RECIPE.fuser.loss

    def step(batch: Batch, turn: int) -> float:
        with engine.autocast():
            fused = fuser(batch["infrared"], batch["visible"]).float()
            height, width = fused.shape[-2:]
            transforms = draw(RECIPE.fuser.transforms, height, width, torch_stream(SEED, "transforms", turn))
            copies = apply_all(transforms, fused)
            again = fuser(infrared(copies), visible(copies))
            sensed = infrared(fused), visible(fused)
        loss = weights.infrared * l1_and_gradient(sensed[0], batch["infrared"])
        loss = loss + weights.visible * l1_and_gradient(sensed[1], batch["visible"])
        loss = loss + weights.equivariance * l1_and_gradient(again, copies)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    return fuser, step


def library_step(engine: Engine, copies_at_once: int | None) -> tuple[nn.Module, Step]:
    """Make the library's step."""
    fuser, _, step = library_parts(engine, copies_at_once)
    return fuser, lambda batch, turn: step(batch, turn)["loss"].item()


def library_parts(engine: Engine, copies_at_once: int | None) -> tuple[UFuser, Sensing, FuserStep]:
    """Make what the library's step consists of, and the step."""
    fuser, infrared, visible = networks()
    training = replace(RECIPE.fuser, copies_at_once=copies_at_once or RECIPE.fuser.copies_at_once)
    sensing = Sensing(*(freeze(network, engine.dtype).to(engine.device) for network in (infrared, visible)))
    return fuser, sensing, FuserStep(fuser.to(engine.device), sensing, training, engine, SEED)


def serve(options: argparse.Namespace) -> None:
    """Do a step for every line that comes in, and answer with what it took."""
    engine = Engine(options.device, options.precision)
    plain = options.loop == "plain"
    fuser, step = plain_step(engine) if plain else library_step(engine, options.copies_at_once)
    optimizer = torch.optim.Adam(fuser.parameters(), RECIPE.fuser.schedule.learning_rate)
    batch = noise_batch(options.batch, options.crop, engine.device)
    for turn, _ in enumerate(sys.stdin):
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = step(batch, turn)
        norm = torch.nn.utils.clip_grad_norm_(fuser.parameters(), math.inf).item()
        optimizer.step()
        answer = {"seconds": time.perf_counter() - begun, "memory": peak_memory(engine), "loss": loss, "norm": norm}
        print(json.dumps(answer), flush=True)


def peak_memory(engine: Engine) -> float:
    """Return the most memory that was in use so far [MiB]."""
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return memory_mib("VmHWM")


class Watch:
    """Adds up the processor's time [s] by what it was spent on; what nobody claimed is in ``total`` alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._since: dict[str, float] = {}

    def start(self, name: str) -> None:
        """Begin to count for ``name``."""
        self._since[name] = time.process_time()

    def stop(self, name: str) -> None:
        """Add what passed since ``start``."""
        self.seconds[name] += time.process_time() - self._since.pop(name)

    def follow(self, module: nn.Module, forward: str, backward: str) -> None:
        """Count the passes of a module; its input needs a gradient, else its backward pass has no known end."""
        module.register_forward_pre_hook(lambda *_: self.start(forward))
        module.register_forward_hook(lambda *_: self.stop(forward))
        module.register_full_backward_pre_hook(lambda *_: self.start(backward))
        module.register_full_backward_hook(lambda *_: self.stop(backward))


def noise_crops(batch: int, crop: int) -> Iterator[Batch]:
    """Yield crops from a scene of noise, 640 x 480, that are cut and chosen as in training."""
    noise = stream(SEED, "scene").integers(256, size=(2, 480, 640), dtype="uint8")
    scene = Scene("noise", Pair("", "noise", "", ""))
    config = replace(RECIPE.fuser.crops, size=crop)
    read = lambda _: SceneImages(noise[0], noise[1], {})
    crops = Crops([scene], read, config, SEED)  # type: ignore[arg-type]
    return crop_batches(crops, Numbers(0, batch, 1, 0, 1))


def profile(options: argparse.Namespace) -> None:
    """Print what a step of the library spends the processor's time on, the mean over steps after the first."""
    engine, watch = Engine("cpu", options.precision), Watch()
    fuser, sensing, step = library_parts(engine, options.copies_at_once)
    optimizer = torch.optim.Adam(fuser.parameters(), RECIPE.fuser.schedule.learning_rate)
    watch.follow(fuser, "fuser", "fuser")
    for network in (sensing.infrared, sensing.visible):
        watch.follow(network, "sensing, forward", "sensing, backward")
    batches = noise_crops(options.batch, options.crop)
    for turn in range(options.steps + 1):
        if turn == 1:
            watch.seconds.clear()
        watch.start("total")
        batch = {name: image.requires_grad_() for name, image in next(batches).items()}
        optimizer.zero_grad(set_to_none=True)
        step(batch, turn)
        torch.nn.utils.clip_grad_norm_(fuser.parameters(), math.inf)
        optimizer.step()
        watch.stop("total")
    total = watch.seconds.pop("total")
    watch.seconds["data and the rest"] = total - sum(watch.seconds.values())
    for name, seconds in watch.seconds.items():
        print(f"{name:18} {seconds / options.steps:7.2f} s a step {seconds / total:6.1%}")
    print(f"batch {options.batch}, crop {options.crop}, {options.precision}, {torch.get_num_threads()} threads")


def verdict(value: float, target: float, *, higher_is_better: bool) -> str:
    """Say a ratio beside its target, and in words if it was missed."""
    missed = value < target if higher_is_better else value > target
    return f"{value:.2f} (target {target:g}{', missed' * missed})"


def take_turns(steps: int) -> dict[str, list[dict[str, float]]]:
    """Let both loops do one step after the other."""
    found: dict[str, list[dict[str, float]]] = {"plain": [], "library": []}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    loops: dict[str, Any] = {
        name: subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--loop", name], **pipes) for name in found
    }
    for _ in range(steps):
        for name, process in loops.items():
            process.stdin.write("\n")
            process.stdin.flush()
            found[name].append(json.loads(process.stdout.readline()))
    for process in loops.values():
        process.communicate()
    return found


def main() -> int:
    """Run both loops and compare; exit status 1 where they compute different things."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=RECIPE.fuser.schedule.batch, help="pairs in a step")
    parser.add_argument("--crop", type=int, default=RECIPE.fuser.crops.size, help="side of a crop in pixels")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--copies-at-once", type=int, help="transformed copies in memory together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file for the figures as CSV")
    parser.add_argument("--profile", action="store_true", help="say where the time of our step goes")
    parser.add_argument("--loop", choices=("plain", "library"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.profile:
        profile(options)
        return 0
    if options.loop:
        serve(options)
        return 0
    found = take_turns(options.steps + 1)
    seconds = {name: statistics.median(each["seconds"] for each in turns[1:]) for name, turns in found.items()}
    memory = {name: turns[-1]["memory"] for name, turns in found.items()}
    for name, turns in found.items():
        first = f"loss {turns[0]['loss']:.5f}, gradient {turns[0]['norm']:.5f}"
        print(f"{name:8} {seconds[name]:7.2f} s a step {memory[name]:7.0f} MiB   first step: {first}")
    faster, smaller = seconds["plain"] / seconds["library"], memory["library"] / memory["plain"]
    print(f"batch {options.batch}, crop {options.crop}, {options.precision}, {torch.get_num_threads()} threads:")
    print(f"times faster: {verdict(faster, TARGET_SPEED, higher_is_better=True)}")
    print(f"of the memory: {verdict(smaller, TARGET_MEMORY, higher_is_better=False)}")
    if options.out:
        settings = {key: getattr(options, key) for key in ("batch", "crop", "precision")}
        rows = [{"loop": name, **settings, "seconds": seconds[name], "peak_mib": memory[name]} for name in found]
        write_figures(options.out, rows, machine(options.device))
    firsts = [(found["plain"][0][key], found["library"][0][key]) for key in ("loss", "norm")]
    equal = all(math.isclose(*pair, rel_tol=TOLERANCE[options.precision]) for pair in firsts)
    print("Both computed the same." if equal else "They computed DIFFERENT things.")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
