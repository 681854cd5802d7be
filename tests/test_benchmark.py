"""The benchmark: its plain network computes what ours does, and its figures are what they say."""

from __future__ import annotations

import csv
from importlib.metadata import version

import numpy as np
import pytest
import torch
from conftest import emma

from emma_core import benchmark
from emma_core.benchmark import WAYS, Figures, Job, check_agreement, measure
from emma_core.benchmark_plain import plain_copy
from emma_core.checkpoint import load_ufuser, save_checkpoint
from emma_core.config import UFuserConfig
from emma_core.errors import EmmaError
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.models.ufuser import UFuser

NARROW = UFuserConfig((8, 16, 16, 16))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)  # noqa: TID251 - initial weights take no generator
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(path, UFuser(NARROW), recipe="quick", provenance={})
    return path


@pytest.mark.parametrize("trained", [True, False])
def test_the_plain_network_computes_what_ours_does(trained, weights):
    network = load_ufuser(SHIPPED_WEIGHTS if trained else weights)[0].eval()
    images = torch.rand(2, 1, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(plain_copy(network).eval()(*images), network(*images), atol=1e-5, rtol=0)


def test_the_plain_network_keeps_the_usual_order_of_memory(weights):
    plain = plain_copy(load_ufuser(weights)[0])
    assert all(parameter.is_contiguous() for parameter in plain.parameters())


def test_ways_are_measured_side_by_side(weights):
    turns = []
    job = Job(64, 72, pairs=1, repeats=1, weights=weights, device="cpu", threads=1)
    plain, ours = measure(job, WAYS[:2], on_turn=lambda: turns.append(1))
    assert len(turns) == 4
    assert (plain.ratio, plain.memory_ratio, plain.psnr, plain.difference) == (1, 1, float("inf"), 0)
    assert ours.ratio == pytest.approx(plain.seconds / ours.seconds)
    assert ours.pairs_per_second == pytest.approx(1 / ours.seconds)
    assert 0 < ours.difference < 1e-4  # two computations, not one
    assert ours.psnr > 100
    assert ours.tflops > 0
    assert ours.peak_mib > 100  # torch alone takes more


def test_psnr_and_difference():
    ones, same = [np.ones((4, 4), np.float32)], [np.full((4, 4), 0.9, np.float32)]
    psnr, largest = benchmark.compare_images(ones, same)
    assert psnr == pytest.approx(20, abs=1e-4)
    assert largest == pytest.approx(0.1, abs=1e-6)
    assert benchmark.compare_images(ones, ones) == (float("inf"), 0)


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_networks_that_compute_different_things_are_not_compared(difference):
    figures = Figures("network", "fp32", 64, 64, "released", 1, 1, 1, 1, 1, 1, 60, difference, 1)
    with pytest.raises(EmmaError, match="differs from the plain network"):
        check_agreement([figures])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "480"], "HEIGHTxWIDTH"),
        (["--size", "480x640,32x640"], "'32x640': expected HEIGHTxWIDTH of 64 to 20000 pixels"),
        (["--size", "480x99999999999"], "of 64 to 20000 pixels"),
        (["--recipe", "paper", "--weights", "a.safetensors"], "either --recipe or --weights"),
    ],
)
def test_bad_requests(arguments, says, tmp_path):
    outcome = emma("benchmark", *arguments, cwd=tmp_path)
    assert outcome.returncode == 2
    assert says in outcome.stderr


def test_damaged_weights_are_told_of_once(weights, tmp_path):
    (tmp_path / "half.safetensors").write_bytes(weights.read_bytes()[:-9])
    for name, says in (("half.safetensors", "damaged"), ("none.safetensors", "no such file")):
        outcome = emma("benchmark", "--size", "64x64", "--weights", name, cwd=tmp_path)
        assert outcome.returncode == 1
        assert outcome.stderr.count("\n") == 1
        assert says in outcome.stderr


def test_dry_run_writes_nothing(tmp_path):
    outcome = emma("benchmark", "--dry-run", cwd=tmp_path)
    assert outcome.returncode == 0
    assert "480x640,768x1024 into runs/benchmark" in outcome.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_all_ways_and_writes_them(weights, tmp_path):
    options = ["--size", "64x72", "--pairs", "2", "--repeats", "1", "--threads", "1", "--device", "cpu"]
    outcome = emma("benchmark", *options, "--weights", weights, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert benchmark.machine("cpu").partition(",")[0] in outcome.stdout
    assert f"torch {version('torch')}" in outcome.stdout
    assert "times as fast as the plain loop (target 4 at 480 x 640)" in outcome.stdout
    name = f"weights-{load_ufuser(weights)[1].sha256[:12]}"
    with (tmp_path / "runs" / "benchmark" / f"fuse-{name}-64x72.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["recipe"] for row in rows} == {name}
    assert [(row["stage"], row["way"]) for row in rows] == [(way.stage, way.name) for way in WAYS]
    assert all(float(row["seconds"]) > 0 for row in rows)
    files = {row["way"]: float(row["difference"]) for row in rows if row["stage"] == "files"}
    assert files["fuse-dataset, fp32"] <= 1.01 / 255  # one grey level, where rounding falls on either side
