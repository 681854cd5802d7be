"""The training loop: what a run leaves, and a killed run ends with the bytes of one that was not."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_image, write_pairs
from small_trainings import (
    FUSER,
    SENSING,
    SHORT,
    TINY,
    TINY_SENSING,
    data_of,
    results,
    run_fuser,
    run_sensing,
    sensing_network,
)

from emma_core.checkpoint import load_sensing, load_ufuser, save_checkpoint
from emma_core.config import read_toml
from emma_core.engine import Engine
from emma_core.errors import BusyError
from emma_core.images import write_image
from emma_core.manifest import locked
from emma_core.train_runs import FuserRun, RunOptions, train_fuser
from emma_core.training import BEST, CONFIG, LAST, STATE, SavePolicy, TrainingError
from emma_core.training_config import PLAIN, FusionLoss, Schedule, TransformConfig
from emma_core.training_log import LOG, read_log
from emma_core.validation import METRICS, SENSING_ERRORS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_loss_of_sensing_and_warm_start_goes_down(trainable, tmp_path):
    longer = Schedule(steps=60, batch=4, learning_rate=5e-3, validate_epochs=100)
    policy = SavePolicy(log_steps=1)
    run_sensing(trainable, tmp_path / "sensing", replace(SENSING, schedule=longer), policy=policy)
    run_fuser(trainable, tmp_path / "warm", replace(FUSER.warm(teacher=False), schedule=longer), policy=policy)
    for name in ("sensing", "warm"):
        found = [line["loss"] for line in read_log(tmp_path / name / LOG) if "loss" in line]
        assert np.mean(found[-5:]) < 0.8 * np.mean(found[:5]), name


def test_a_run_leaves_what_it_promises(trainable, tmp_path):
    progress = run_fuser(trainable, tmp_path / "run")
    folder = tmp_path / "run"
    assert progress.step == 6
    assert {CONFIG, STATE, BEST, LAST, LOG, "pictures"} <= {file.name for file in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents.*"))
    network, info = load_ufuser(folder / LAST)
    assert network.config == TINY
    assert info.recipe == "test"
    assert info.provenance["data"] == "mine: 8 pairs"
    assert info.provenance["step"] == "6"
    record = read_toml(folder / CONFIG, FuserRun)
    assert record.training == FUSER
    assert record.infrared_sensing == load_sensing(trainable / "Ai.safetensors")[1].sha256
    lines = read_log(folder / LOG)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
    validations = [line["validation"] for line in lines if "validation" in line]
    assert set(validations[0]) == {*METRICS, *SENSING_ERRORS, "score"}
    assert progress.best == max(each["score"] for each in validations)


def test_each_sensing_network_stands_for_its_sensor(tmp_path):
    """The infrared one answers white whatever it sees, the other black; the images are dark in infrared alone."""
    for number in range(4):
        image = random_image(number, (24, 32)) / 5
        write_image(tmp_path / "ir" / f"{number}.png", image)
        write_image(tmp_path / "vi" / f"{number}.png", 1 - image)
    for name, answer in (("Ai", 20.0), ("Av", -20.0)):
        network = sensing_network()
        torch.nn.init.constant_(network.head.bias, answer)
        torch.nn.init.zeros_(network.head.weight)
        save_checkpoint(tmp_path / f"{name}.safetensors", network, recipe="test", provenance={})
    loss = FusionLoss("l1", equivariance=0.0)
    run_fuser(tmp_path, tmp_path / "run", replace(FUSER, loss=loss, schedule=replace(SHORT, steps=1)))
    first, *_, last = read_log(tmp_path / "run" / LOG)
    assert min(first["infrared"], first["visible"]) > 0.7
    validation = last["validation"]
    assert min(validation["infrared_l1"], validation["visible_l1"]) > 0.7
    dark_or_bright = validation["infrared_copy"] + validation["visible_copy"]
    assert dark_or_bright >= 0.7, "one fused image cannot be near both"


def test_images_too_small_for_a_metric_are_scored_by_the_others(trainable, tmp_path):
    small = write_pairs(tmp_path / "small", 4, shape=(40, 64))
    for name in ("Ai", "Av"):
        shutil.copy(trainable / f"{name}.safetensors", small)
    progress = run_fuser(small, tmp_path / "run", replace(FUSER, schedule=replace(SHORT, steps=1)))
    validation = read_log(tmp_path / "run" / LOG)[-1]["validation"]
    assert math.isnan(float(validation["VIF"]))
    assert progress.best == validation["score"] > 0


def test_sensing_is_validated_beside_predictors_that_know_nothing(trainable, tmp_path):
    progress = run_sensing(trainable, tmp_path / "run")
    validation = [line["validation"] for line in read_log(tmp_path / "run" / LOG) if "validation" in line][-1]
    assert set(validation) == {"l1", "constant", "copy", "score"}
    assert validation["score"] == -validation["l1"] <= progress.best
    assert load_sensing(tmp_path / "run" / BEST)[0].config == TINY_SENSING


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trainable, tmp_path):
    short = replace(FUSER, schedule=replace(SHORT, steps=2))
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        run_fuser(trainable, tmp_path / name, short, seed=seed)
    assert results(tmp_path / "one") == results(tmp_path / "again")
    one, other = (load_ufuser(tmp_path / name / LAST)[0].head.weight for name in ("one", "other"))
    assert (one - other).abs().max() > 0.01  # of the weights: what the files say of the seed differs anyway


def test_accumulated_batches_equal_a_larger_one(trainable, tmp_path):
    whole = replace(SHORT, steps=2, batch=4)
    parts = replace(SHORT, steps=2, batch=2, accumulate=2)
    # One transform that is the same for all batches, because each batch draws its own.
    fixed = replace(FUSER, transforms=TransformConfig(identity=True, shifts=0, rotations=0, reflections=0))
    run_fuser(trainable, tmp_path / "whole", replace(fixed, schedule=whole))
    run_fuser(trainable, tmp_path / "parts", replace(fixed, schedule=parts))
    norms = [read_log(tmp_path / name / LOG)[0]["norm"] for name in ("whole", "parts")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    one, other = (load_ufuser(tmp_path / name / LAST)[0].state_dict() for name in ("whole", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=5e-4)


def test_the_rate_is_halved_as_the_paper_says(trainable, tmp_path):
    schedule = replace(SHORT, steps=9, decay_epochs=1)  # six pairs, two a step: three steps an epoch
    run_sensing(trainable, tmp_path, replace(SENSING, schedule=schedule))
    rates = [line["rate"] for line in read_log(tmp_path / LOG) if "rate" in line]
    assert rates == [1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3


def test_the_warm_start_runs_first_and_its_weights_are_taken(trainable, tmp_path):
    short = replace(SHORT, steps=2)
    training = replace(FUSER, warm_start=True, warm_start_schedule=short, schedule=replace(short, learning_rate=1e-12))
    run_fuser(trainable, tmp_path / "run", training)
    one, other = (load_ufuser(folder / LAST)[0] for folder in (tmp_path / "run" / "warm-start", tmp_path / "run"))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)
    record = read_toml(tmp_path / "run" / "warm-start" / CONFIG, FuserRun)
    assert record.training.loss == PLAIN


def test_the_warm_start_prefers_a_teacher(trainable, tmp_path):
    short = replace(SHORT, steps=2)
    training = replace(FUSER, warm_start=True, warm_start_schedule=short, schedule=short)
    data = data_of(trainable, teachers=[("visible", trainable / "vi")])
    options = RunOptions("test", tmp_path / "run", quiet=True)
    sensing = (trainable / "Ai.safetensors", trainable / "Av.safetensors")
    train_fuser(Engine("cpu"), training, data, options, sensing=sensing)
    assert "teacher" in read_log(tmp_path / "run" / "warm-start" / LOG)[0]


# Killed and resumed

SLOWLY = Schedule(steps=9, batch=2, learning_rate=1e-3, validate_epochs=3)


def _child(kind: str, root: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    if kind == "fuser":
        run_fuser(root, folder, replace(FUSER, schedule=SLOWLY), policy=SavePolicy(steps=2, log_steps=1))
    else:
        run_sensing(root, folder, replace(SENSING, schedule=SLOWLY), policy=SavePolicy(steps=2, log_steps=1))


def steps_logged(folder: Path) -> int:
    return sum("loss" in line for line in read_log(folder / LOG))


@pytest.fixture(scope="module")
def processes():
    """Real processes that start quickly, because their common parent has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["emma_core.train_runs", "accelerate", "torch.utils.tensorboard"])
    return context


@pytest.mark.parametrize("kind", ["fuser", "sensing"])
def test_killed_at_any_step_and_resumed_equals_never_stopped(kind, trainable, tmp_path, processes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _child(kind, trainable, whole)
    for goal in sorted(np.random.default_rng(os.getpid()).choice(7, 2, replace=False) + 1):
        process = processes.Process(target=_child, args=(kind, trainable, killed))
        process.start()
        deadline = time.monotonic() + 60
        while steps_logged(killed) < goal and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not (killed / LAST).exists() or steps_logged(killed) < SLOWLY.steps
    _child(kind, trainable, killed)
    assert results(killed) == results(whole)


def test_a_finished_run_is_left_alone(trainable, tmp_path):
    run_sensing(trainable, tmp_path / "run")
    before = results(tmp_path / "run")
    assert run_sensing(trainable, tmp_path / "run").step == 6
    assert results(tmp_path / "run") == before


def test_another_configuration_is_refused_and_named(trainable, tmp_path):
    run_sensing(trainable, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"another configuration \(training.distance: 'l1', now 'mse'\)"):
        run_sensing(trainable, tmp_path / "run", replace(SENSING, distance="mse"))
    with pytest.raises(TrainingError, match=r"another configuration .* and \d+ more"):
        run_fuser(trainable, tmp_path / "run")
    (tmp_path / "run" / CONFIG).unlink()
    with pytest.raises(TrainingError, match=r"no config.toml"):
        run_sensing(trainable, tmp_path / "run")


def test_two_processes_in_one_folder_are_refused(trainable, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(BusyError):
        run_fuser(trainable, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(trainable, tmp_path):
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from small_trainings import FUSER, SHORT, Engine, TransformConfig, run_fuser\n"
        "one = TransformConfig(identity=True, shifts=0, rotations=0, reflections=0)\n"
        "schedule = replace(SHORT, steps=2, batch=2)\n"
        "engine = Engine('cpu')\n"
        "assert engine.world == 2\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "run_fuser(root, out, replace(FUSER, transforms=one, schedule=schedule), engine=engine)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*launcher, str(script), str(trainable), str(tmp_path / "two")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    one = TransformConfig(identity=True, shifts=0, rotations=0, reflections=0)
    run_fuser(trainable, tmp_path / "one", replace(FUSER, transforms=one, schedule=replace(SHORT, steps=2, batch=4)))
    found, wanted = (load_ufuser(tmp_path / name / LAST)[0].state_dict() for name in ("two", "one"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4)
    assert steps_logged(tmp_path / "two") == 2
