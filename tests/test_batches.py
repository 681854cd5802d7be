"""Batches for an accelerator, with real threads; the device is the CPU, unless there is a GPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Event

import pytest
import torch
from conftest import emma_process, tree, write_pairs

from emma_core.batches import AT_ONCE, Batches, pairs_at_once
from emma_core.datasets import dataset_spec
from emma_core.errors import EmmaError, UsageError
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import load_fuser
from emma_core.pairs import find_pairs
from emma_core.runtime import AHEAD, map_images

CPU, ACCELERATOR = torch.device("cpu"), torch.device("meta")
TIMEOUT = 60
"""Seconds after which a test that waits for another thread fails."""


class Device:
    """The maximum of both images, computed batch by batch; the first batch waits until it is let go."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.go = Event()

    def __call__(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(infrared.shape))
        assert self.go.wait(TIMEOUT)
        return torch.maximum(infrared, visible)


def pairs_of(number: int, height: int = 6, width: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(number)
    return [tuple(torch.rand(2, 1, 1, height, width, generator=draws)) for _ in range(number)]


def fuse_at_once(batches: Batches, device: Device, pairs) -> list:
    """Let every pair come in a thread of its own, the first alone and all others while the device is busy."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        futures = [pool.submit(batches, *pairs[0])]
        wait_for(lambda: device.shapes)
        futures += [pool.submit(batches, *pair) for pair in pairs[1:]]
        wait_for(lambda: len(batches._waiting) == len(pairs) - 1)
        device.go.set()
        return [future.exception(TIMEOUT) or future.result() for future in futures]


def wait_for(condition) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_pairs_that_wait_are_fused_together_in_full_batches():
    device, pairs = Device(), pairs_of(AT_ONCE + 4)
    fused = fuse_at_once(Batches(device, CPU), device, pairs)
    assert device.shapes == [(AT_ONCE, 1, 6, 10)] * 3  # one pair, eight, and the three that are left
    for image, pair in zip(fused, pairs, strict=True):
        assert image.shape == (1, 1, 6, 10)
        assert torch.equal(image, torch.maximum(*pair))


def test_pairs_of_another_size_go_in_a_batch_of_their_own():
    device, pairs = Device(), [pair for two in zip(pairs_of(3), pairs_of(3, 8, 8), strict=True) for pair in two]
    fused = fuse_at_once(Batches(device, CPU), device, pairs)
    assert sorted(device.shapes) == [(AT_ONCE, 1, 6, 10)] * 2 + [(AT_ONCE, 1, 8, 8)]
    for image, pair in zip(fused, pairs, strict=True):
        assert torch.equal(image, torch.maximum(*pair))


@pytest.mark.parametrize(
    ("height", "width", "pairs"), [(256, 256, 8), (480, 640, 8), (768, 1024, 5), (1024, 1024, 4), (3000, 4000, 1)]
)
def test_a_batch_has_no_more_than_four_megapixels(height, width, pairs):
    assert pairs_at_once(height, width) == pairs


@pytest.mark.parametrize(
    ("fault", "raised", "says"),
    [
        (ValueError("broken"), ValueError, "broken"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            EmmaError,
            "cpu is too small for a batch of 8 pairs of 6",
        ),
    ],
)
def test_what_goes_wrong_with_a_batch_is_said_to_all_who_wait_for_it_and_to_no_others(fault, raised, says):
    device = Device()

    def second_fails(infrared, visible):
        if len(device.shapes) == 1:
            device.shapes.append(())
            raise fault
        return device(infrared, visible)

    batches, pairs = Batches(second_fails, CPU), pairs_of(4)
    first, *others = fuse_at_once(batches, device, pairs)
    assert torch.equal(first, torch.maximum(*pairs[0]))
    assert [type(other) for other in others] == [raised] * 3
    assert all(says in str(other) for other in others)
    assert torch.equal(batches(*pairs[1]), torch.maximum(*pairs[1]))


def test_items_for_an_accelerator_are_worked_on_several_at_a_time_in_order():
    meet = Barrier(3)

    def function(item: int) -> int:
        meet.wait(TIMEOUT)  # passes only if three are here
        return -item

    assert list(map_images(function, range(6), ACCELERATOR, at_once=3)) == [0, -1, -2, -3, -4, -5]


def test_of_many_items_a_few_are_under_way():
    """An item that is submitted takes memory until its turn: of 100,000 only those near the front may be."""
    begun = []

    def function(item: int) -> int:
        begun.append(item)
        return item

    results = map_images(function, range(10_000), ACCELERATOR, at_once=2)
    assert [next(results) for _ in range(100)] == list(range(100))
    assert len(begun) <= 100 + 2 * AHEAD
    assert [*results] == list(range(100, 10_000))


def test_what_fails_ends_the_map_and_the_rest_is_not_begun():
    begun = []

    def function(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError(item)
        return item

    results = map_images(function, range(10_000), ACCELERATOR, at_once=2)
    with pytest.raises(ValueError, match="3"):
        list(results)
    assert len(begun) < 10_000


def test_a_data_set_fused_in_batches_is_the_same(tmp_path):
    pairs = find_pairs(dataset_spec("TNO"), write_pairs(tmp_path / "TNO", 20))
    device, plain = Device(), load_fuser("max")
    device.go.set()
    batched = replace(plain, function=Batches(device, CPU), device=ACCELERATOR)
    for fuser, name in ((plain, "plain"), (batched, "batched")):
        assert fuse_dataset(pairs, fuser, tmp_path / name).fused == 20
    assert {shape[0] for shape in device.shapes} == {AT_ONCE}
    assert tree(tmp_path / "batched") == tree(tmp_path / "plain")


def test_only_emma_is_compiled():
    with pytest.raises(UsageError, match="--compile is for EMMA; max has none"):
        load_fuser("max", compiled=True)


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    root = write_pairs(tmp_path / "TNO", 2)
    outcome = emma_process("fuse-dataset", "TNO", "--root", root, "--compile", "--device", "cpu", cwd=tmp_path)
    assert outcome.returncode == 1, outcome.stderr
    assert "torch cannot compile the network here" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's compiler to itself
def test_the_compiled_network_computes_the_same():
    pair = tuple(torch.rand(2, 1, 1, 32, 40, generator=torch.Generator().manual_seed(0)))
    plain, compiled = (load_fuser(device="cpu", compiled=compiled) for compiled in (False, True))
    assert compiled.settings == {**plain.settings, "compiled": True}
    torch.testing.assert_close(compiled(*pair), plain(*pair), atol=1e-4, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_fuses_in_batches_what_the_processor_fuses_alone():
    pairs = pairs_of(20, 48, 64)
    on_gpu, on_cpu = (load_fuser(device=device) for device in ("cuda", "cpu"))
    fused = map_images(lambda pair: on_gpu(*pair), pairs, on_gpu.device, at_once=20)
    for image, pair in zip(fused, pairs, strict=True):
        torch.testing.assert_close(image, on_cpu(*pair), atol=1e-3, rtol=0)
