"""Training: gradients go where they should, a killed run ends with the bytes of one that was not, faults are said."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs

from emma_core import losses
from emma_core.chance import seeded, stream, torch_stream
from emma_core.checkpoint import load_sensing, load_ufuser, save_checkpoint
from emma_core.config import SensingConfig, UFuserConfig, from_dict, read_toml, to_dict, write_toml
from emma_core.engine import Engine
from emma_core.equivariance import apply_all, draw
from emma_core.errors import BusyError, DataError, UsageError
from emma_core.manifest import locked
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.stages import FuserStep, Sensing, freeze
from emma_core.train_commands import train_app
from emma_core.train_runs import FuserRun, RunOptions, Source, find_data, train_fuser, train_sensing
from emma_core.training import BEST, CONFIG, LAST, STATE, SavePolicy, Stage, TrainingError, Validation, train
from emma_core.training_config import (
    NOTHING,
    PLAIN,
    RECIPES,
    CropConfig,
    FuserTraining,
    FusionLoss,
    Schedule,
    SensingTraining,
    TransformConfig,
    override,
    training_recipe,
)
from emma_core.training_log import LOG, read_log
from emma_core.training_state import StateError, load_state, save_state

TINY = UFuserConfig((8, 8, 8, 8))
TINY_SENSING = SensingConfig((4, 8))
SET = TransformConfig(identity=True, shifts=1, rotations=1, angles=(10.0, 130.0), reflections=0)
CROPS = CropConfig(size=16, flips=True, exposure=0.2)
SHORT = Schedule(steps=6, batch=2, learning_rate=1e-3, clip=1.0, validate_epochs=3)
FUSER = FuserTraining(TINY, FusionLoss("l1+gradient", equivariance=2.0), SET, crops=CROPS, schedule=SHORT)
SENSING = SensingTraining(TINY_SENSING, classical=("max",), crops=CROPS, schedule=SHORT)
OFTEN = SavePolicy(steps=2, log_steps=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sensing_network(seed: int = 0) -> SensingUNet:
    """A network whose normalisation has seen something, so that folding it matters."""
    with seeded(seed, "test"):
        network = SensingUNet(TINY_SENSING)
        for _ in range(3):
            network(torch.rand(4, 1, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with pairs and sensing networks."""
    root = tmp_path_factory.mktemp("world")
    write_pairs(root, 8, shape=(48, 56))
    for seed, name in enumerate(("Ai", "Av")):
        save_checkpoint(root / f"{name}.safetensors", sensing_network(seed), recipe="test", provenance={})
    return root


def data_of(root: Path, **options):
    return find_data([Source("mine", folders=(root / "ir", root / "vi"))], held_out=2, **options)


def run_fuser(root: Path, folder: Path, training: FuserTraining = FUSER, *, engine=None, seed=0, policy=OFTEN):
    options = RunOptions("test", folder, seed=seed, policy=policy, quiet=True)
    engine = engine or Engine("cpu", training.schedule.precision)
    sensing = (root / "Ai.safetensors", root / "Av.safetensors")
    return train_fuser(engine, training, data_of(root), options, sensing=sensing)


def run_sensing(root: Path, folder: Path, training: SensingTraining = SENSING, *, policy=OFTEN):
    options = RunOptions("test", folder, policy=policy, quiet=True)
    return train_sensing(Engine("cpu", training.schedule.precision), training, "infrared", data_of(root), options)


def results(folder: Path) -> dict[str, object]:
    """Everything a run leaves but the time it took."""
    files = {name: (folder / name).read_bytes() for name in (CONFIG, STATE, BEST, LAST)}
    pictures = {file.name: file.read_bytes() for file in folder.glob("pictures/*.png")}
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder / LOG)]
    return {**files, **pictures, "log": log}


# Gradients


def batch_of(size: int = 2) -> dict[str, torch.Tensor]:
    rng = stream(3, "batch")
    return {name: torch.from_numpy(rng.random((size, 1, 16, 16), "float32")) for name in ("infrared", "visible")}


def fuser_step(training: FuserTraining, precision="fp32"):
    with seeded(0, "test"):
        fuser = UFuser(training.network)
    engine = Engine("cpu", precision)
    networks = sensing_network(1), sensing_network(2)
    sensing = Sensing(*(freeze(network, engine.dtype) for network in networks))
    return fuser, sensing, networks, FuserStep(fuser, sensing, training, engine, seed=5)


def gradients(module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def plain_loss(training, fuser, networks, batch, turn=0):
    """Equation 4 as one would write it."""
    distance, weights = losses.DISTANCES[training.loss.distance], training.loss
    fused = fuser(batch["infrared"], batch["visible"])
    transformed = apply_all(draw(training.transforms, 16, 16, torch_stream(5, "transforms", turn)), fused)
    again = fuser(networks[0](transformed), networks[1](transformed))
    return (
        weights.infrared * distance(networks[0](fused), batch["infrared"])
        + weights.visible * distance(networks[1](fused), batch["visible"])
        + weights.equivariance * distance(again, transformed.detach() if weights.detach_target else transformed)
    )


@pytest.mark.parametrize("copies_at_once", [1, 3])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("identity", [False, True])
def test_the_step_computes_the_gradient_of_equation_4(copies_at_once, detach, identity):
    training = replace(
        FUSER,
        loss=replace(FUSER.loss, detach_target=detach),
        transforms=replace(SET, shifts=2, reflections=2, identity=identity),
        copies_at_once=copies_at_once,
    )
    fuser, _, networks, step = fuser_step(training)
    values = step(batch_of(), 0)
    found = gradients(fuser)
    fuser.zero_grad()
    loss = plain_loss(training, fuser, networks, batch_of())
    loss.backward()
    torch.testing.assert_close(values["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    for one, other in zip(found, gradients(fuser), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-6)


def test_frozen_networks_answer_alike_and_keep_no_gradients():
    fuser, sensing, networks, step = fuser_step(FUSER)
    before = [
        parameter.clone() for network in (sensing.infrared, sensing.visible) for parameter in network.parameters()
    ]
    x = torch.rand(2, 1, 16, 16, requires_grad=True)
    for frozen, network in zip((sensing.infrared, sensing.visible), networks, strict=True):
        torch.testing.assert_close(frozen(x), network(x), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(frozen.train()(x), network(x), rtol=1e-4, atol=1e-6)
        assert torch.autograd.grad(frozen(x).sum(), x)[0].abs().sum() > 0
    step(batch_of(), 0)
    parameters = [p for network in (sensing.infrared, sensing.visible) for p in network.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in parameters)
    assert all(map(torch.equal, parameters, before))
    assert not any(buffer.is_floating_point() for network in (sensing.infrared,) for buffer in network.buffers())
    assert all(gradient.isfinite().all() for gradient in gradients(fuser))


def test_half_precision_gives_nearly_the_same_gradient():
    values = {}
    for precision in ("fp32", "bf16"):
        fuser, _, _, step = fuser_step(FUSER, precision)
        loss = step(batch_of(), 0)["loss"]
        values[precision] = loss, torch.cat([gradient.flatten() for gradient in gradients(fuser)])
        assert values[precision][1].dtype == torch.float32
    assert values["bf16"][0].item() == pytest.approx(values["fp32"][0].item(), rel=0.02)
    assert torch.cosine_similarity(values["fp32"][1], values["bf16"][1], dim=0) > 0.9


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_only_terms_with_a_weight_are_computed(name):
    training = replace(training_recipe(name).fuser, network=TINY, transforms=SET)
    weights = {key: value for key, value in to_dict(training.loss).items() if type(value) is float and key != "gain"}
    terms = {key for key, value in weights.items() if value}
    _, _, _, step = fuser_step(training)
    assert terms <= set(step(batch_of(), 0)) - {"loss"} <= terms | {"infrared", "visible"}


# The loop


def test_the_loss_of_all_stages_goes_down(world, tmp_path):
    longer = Schedule(steps=60, batch=4, learning_rate=5e-3, validate_epochs=100)
    policy = SavePolicy(log_steps=1)
    run_sensing(world, tmp_path / "sensing", replace(SENSING, schedule=longer), policy=policy)
    run_fuser(world, tmp_path / "warm", replace(FUSER.warm(teacher=False), schedule=longer), policy=policy)
    for name in ("sensing", "warm"):
        found = [line["loss"] for line in read_log(tmp_path / name / LOG) if "loss" in line]
        assert np.mean(found[-5:]) < 0.8 * np.mean(found[:5]), name
    fuser, _, _, step = fuser_step(FUSER)
    optimizer = torch.optim.Adam(fuser.parameters(), 3e-3)
    found = []
    for _ in range(8):  # on one batch: these sensing networks have learnt nothing that a fuser could use
        optimizer.zero_grad()
        found.append(step(batch_of(), 0)["loss"].item())
        optimizer.step()
    assert found[-1] < 0.97 * found[0]


def test_a_run_leaves_what_it_promises(world, tmp_path):
    progress = run_fuser(world, tmp_path / "run")
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
    assert record.infrared_sensing == load_sensing(world / "Ai.safetensors")[1].sha256
    lines = read_log(folder / LOG)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
    validations = [line["validation"] for line in lines if "validation" in line]
    assert set(validations[0]) == {"EN", "SD", "AG", "MI", "VIF", "Qabf", "score"}
    assert progress.best == max(each["score"] for each in validations)


def test_sensing_is_validated_beside_predictors_that_know_nothing(world, tmp_path):
    progress = run_sensing(world, tmp_path / "run")
    validation = [line["validation"] for line in read_log(tmp_path / "run" / LOG) if "validation" in line][-1]
    assert set(validation) == {"l1", "constant", "copy", "score"}
    assert validation["score"] == -validation["l1"] <= progress.best
    assert load_sensing(tmp_path / "run" / BEST)[0].config == TINY_SENSING


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(world, tmp_path):
    short = replace(FUSER, schedule=replace(SHORT, steps=2))
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        run_fuser(world, tmp_path / name, short, seed=seed)
    assert results(tmp_path / "one") == results(tmp_path / "again")
    assert (tmp_path / "one" / LAST).read_bytes() != (tmp_path / "other" / LAST).read_bytes()


def test_accumulated_batches_equal_a_larger_one(world, tmp_path):
    whole = replace(SHORT, steps=2, batch=4)
    parts = replace(SHORT, steps=2, batch=2, accumulate=2)
    # One transform that is the same for all batches, because each batch draws its own.
    fixed = replace(FUSER, transforms=TransformConfig(identity=True, shifts=0, rotations=0, reflections=0))
    run_fuser(world, tmp_path / "whole", replace(fixed, schedule=whole))
    run_fuser(world, tmp_path / "parts", replace(fixed, schedule=parts))
    one, other = (load_ufuser(tmp_path / name / LAST)[0].state_dict() for name in ("whole", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=5e-4)


def test_the_rate_is_halved_as_the_paper_says(world, tmp_path):
    schedule = replace(SHORT, steps=9, decay_epochs=1)  # six pairs, two a step: three steps an epoch
    run_sensing(world, tmp_path, replace(SENSING, schedule=schedule))
    rates = [line["rate"] for line in read_log(tmp_path / LOG) if "rate" in line]
    assert rates == [1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3


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
def test_killed_at_any_step_and_resumed_equals_never_stopped(kind, world, tmp_path, processes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _child(kind, world, whole)
    for goal in sorted(np.random.default_rng(os.getpid()).choice(7, 2, replace=False) + 1):
        process = processes.Process(target=_child, args=(kind, world, killed))
        process.start()
        deadline = time.monotonic() + 60
        while steps_logged(killed) < goal and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not (killed / LAST).exists() or steps_logged(killed) < SLOWLY.steps
    _child(kind, world, killed)
    assert results(killed) == results(whole)


def test_a_finished_run_is_left_alone(world, tmp_path):
    run_sensing(world, tmp_path / "run")
    before = results(tmp_path / "run")
    assert run_sensing(world, tmp_path / "run").step == 6
    assert results(tmp_path / "run") == before


def test_another_configuration_is_refused_and_named(world, tmp_path):
    run_sensing(world, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"another configuration \(training.distance: 'l1', now 'mse'\)"):
        run_sensing(world, tmp_path / "run", replace(SENSING, distance="mse"))
    with pytest.raises(TrainingError, match=r"another configuration .* and \d+ more"):
        run_fuser(world, tmp_path / "run")
    (tmp_path / "run" / CONFIG).unlink()
    with pytest.raises(TrainingError, match=r"no config.toml"):
        run_sensing(world, tmp_path / "run")


def test_two_processes_in_one_folder_are_refused(world, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(BusyError):
        run_fuser(world, tmp_path / "run")


# What goes wrong


class _Odd(torch.nn.Module):
    """One weight; the loss is what the test says."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))


def odd_stage(loss_at, steps=300, gradient=1.0) -> Stage:
    module = _Odd()

    def step(batch, turn):
        value = torch.tensor(loss_at(turn))
        module.weight.grad = torch.tensor(gradient)
        return {"loss": value}

    def save(path, about):
        path.write_text(str(module.weight.item()))

    return Stage(
        title="odd",
        config=CropConfig(),
        seed=0,
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), 1e-3),
        steps=steps,
        rate=lambda _: 1e-3,
        batches=lambda _: iter(lambda: torch.zeros(1), None),
        step=step,
        validate=lambda: Validation({}, 1.0),
        validate_steps=10,
        save=save,
    )


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (odd_stage(lambda turn: math.nan if turn == 25 else 1.0), "stopped at step 26, the loss is nan"),
        (odd_stage(lambda turn: math.inf if turn == 25 else 1.0), "stopped at step 26, the loss is inf"),
        (odd_stage(lambda _: 1.0, gradient=math.nan), "stopped at step 1, the loss is 1.0, the norm .* nan"),
        (odd_stage(lambda turn: 1.0 if turn < 150 else 500.0), r"stopped at step 15\d, the loss rose from 1 to 1\d"),
    ],
    ids=["nan", "inf", "gradient", "diverging"],
)
def test_a_broken_loss_stops_in_one_line_and_keeps_the_last_good_state(stage, said, tmp_path):
    with pytest.raises(TrainingError, match=said) as caught:
        train(stage, tmp_path / "run", Engine("cpu"), quiet=True)
    assert "\n" not in str(caught.value)
    state = tmp_path / "run" / STATE
    if "step 1," in said:
        assert not state.exists()
    else:
        kept = load_state(state)
        assert kept["progress"]["step"] in {20, 150}
        assert math.isfinite(kept["module"]["weight"])
        assert math.isfinite(float((tmp_path / "run" / BEST).read_text()))


def test_a_damaged_state_is_said(world, tmp_path):
    run_sensing(world, tmp_path / "run")
    whole = (tmp_path / "run" / STATE).read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / "run" / STATE).write_bytes(damaged)
        with pytest.raises(StateError, match="not a training state"):
            run_sensing(world, tmp_path / "run")


def test_a_state_of_another_network_is_refused(world, tmp_path):
    run_fuser(world, tmp_path / "run", replace(FUSER, schedule=replace(SHORT, steps=1)))
    run_sensing(world, tmp_path / "other")
    (tmp_path / "run" / STATE).write_bytes((tmp_path / "other" / STATE).read_bytes())
    with pytest.raises(StateError, match="does not fit the network"):
        run_fuser(world, tmp_path / "run", replace(FUSER, schedule=replace(SHORT, steps=1)))


def test_states_come_back_as_they_were(tmp_path):
    state = {"a": [1, 2.5, None, True, "x"], 3: {"t": torch.arange(6).view(2, 3), 0: torch.tensor(1.5)}}
    save_state(tmp_path / "state", state)
    back = load_state(tmp_path / "state")
    assert back["a"] == state["a"]
    assert torch.equal(back[3]["t"], state[3]["t"])
    assert back[3][0] == 1.5
    with pytest.raises(TypeError, match="cannot hold set"):
        save_state(tmp_path / "state", {"a": {1}})


def test_sensing_networks_are_asked_for_where_they_are_needed(world, tmp_path):
    options = RunOptions("test", tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"--sensing-ir FILE .* emma-tasks train sensing"):
        train_fuser(Engine("cpu"), FUSER, data_of(world), options)
    traditional = replace(FUSER, loss=replace(NOTHING, sources=1.0), schedule=replace(SHORT, steps=2))
    assert train_fuser(Engine("cpu"), traditional, data_of(world), options).step == 2


def test_the_warm_start_runs_first_and_its_weights_are_taken(world, tmp_path):
    short = replace(SHORT, steps=2)
    training = replace(FUSER, warm_start=True, warm_start_schedule=short, schedule=replace(short, learning_rate=1e-12))
    run_fuser(world, tmp_path / "run", training)
    one, other = (load_ufuser(folder / LAST)[0] for folder in (tmp_path / "run" / "warm-start", tmp_path / "run"))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)
    record = read_toml(tmp_path / "run" / "warm-start" / CONFIG, FuserRun)
    assert record.training.loss == PLAIN


def test_the_warm_start_prefers_a_teacher(world, tmp_path):
    short = replace(SHORT, steps=2)
    training = replace(FUSER, warm_start=True, warm_start_schedule=short, schedule=short)
    data = data_of(world, teachers=[("visible", world / "vi")])
    options = RunOptions("test", tmp_path / "run", quiet=True)
    sensing = (world / "Ai.safetensors", world / "Av.safetensors")
    train_fuser(Engine("cpu"), training, data, options, sensing=sensing)
    assert "teacher" in read_log(tmp_path / "run" / "warm-start" / LOG)[0]


# Recipes


def test_recipes_are_those_of_the_protocol():
    paper, released = training_recipe("paper"), training_recipe("Released")
    assert paper.fuser.loss == FusionLoss("l1", infrared=1.0, visible=1.0, equivariance=10.0)
    assert paper.sensing.distance == "l1"
    assert paper.fuser.schedule == Schedule(epochs=100, batch=8, learning_rate=1e-4, decay_epochs=20, decay=0.5)
    assert (paper.fuser.crops.size, paper.fuser.crops.placing) == (128, "random")
    assert released.fuser.loss == FusionLoss("l1+gradient", 1.0, 1.0, 0.1)
    assert (released.fuser.schedule.epochs, released.fuser.schedule.batch) == (120, 4)
    assert released.fuser.transforms.copies == 10
    assert released.sensing.distance == "mse"
    assert released.sensing.schedule == Schedule(epochs=40, batch=64, decay_epochs=10)
    assert (released.fuser.crops.stride, released.fuser.crops.placing, released.fuser.crops.min_contrast) == (
        200,
        "grid",
        0.1,
    )


def test_ablations_are_those_of_table_2():
    fusers = {number: training_recipe(f"ablation-{number}").fuser for number in ("I", "II", "III", "IV", "V")}
    full = training_recipe("paper").fuser
    assert replace(fusers["I"], loss=full.loss) == full
    assert fusers["I"].loss == replace(full.loss, equivariance=0.0)
    assert fusers["II"].loss == replace(full.loss, infrared=0.0, visible=0.0, sources=1.0)
    assert fusers["III"].loss == replace(NOTHING, sources=1.0)
    assert not fusers["III"].loss.senses
    assert not fusers["IV"].network.global_branch
    assert not fusers["V"].network.local_branch


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_toml(name, tmp_path):
    recipe = RECIPES[name]
    for training in (recipe.sensing, recipe.fuser):
        write_toml(tmp_path / "a.toml", training)
        assert read_toml(tmp_path / "a.toml", type(training)) == training
        assert from_dict(type(training), to_dict(training)) == training


def test_values_are_overridden_one_by_one():
    changed = override(FUSER, {"loss": {"equivariance": 7}, "schedule": {"steps": 5}})
    assert changed.loss == replace(FUSER.loss, equivariance=7.0)
    assert changed.schedule == replace(SHORT, steps=5)
    with pytest.raises(UsageError, match=r"unknown key 'equivarience'"):
        override(FUSER, {"loss": {"equivarience": 7}})


@pytest.mark.parametrize(
    "change",
    [{"loss": {"equivariance": -1.0}}, {"loss": to_dict(NOTHING)}, {"copies_at_once": 0}, {"crops": {"size": 4}}],
)
def test_trainings_that_would_train_nothing_are_refused(change):
    with pytest.raises(UsageError):
        override(FUSER, change)


# The command line


def test_all_stages_from_the_command_line(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text("network.channels = [4, 8]\ncrops.size = 32\n")
    (tmp_path / "skip.txt").write_text("000\n001\n")
    common = ["--data", f"mine={world / 'ir'},{world / 'vi'}", "--recipe", "quick", "--held-out", "2"]
    common += ["--device", "cpu", "--exclude-file", "mine=skip.txt", "--steps", "2"]

    def run(*arguments: str) -> str:
        train_app()([*arguments], standalone_mode=False)
        return capsys.readouterr().out

    sensing = ["sensing", "--modality", "ir", *common, "--config", "small.toml", "--teacher", "max"]
    assert "Would train a ir sensing network by recipe quick for 2 steps on 4 pairs" in run(*sensing, "--dry-run")
    assert not (tmp_path / "runs").exists()
    weights = "runs/train/sensing-ir-quick/best.safetensors"
    assert weights in run(*sensing)
    assert load_sensing(Path(weights))[0].config == SensingConfig((4, 8))
    run("fuser", *common, "--sensing-ir", weights, "--sensing-vis", weights, "--no-warm-start")
    assert load_ufuser(Path("runs/train/fuser-quick/last.safetensors"))[1].recipe == "quick"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nonsense"], "expected NAME=PATH"),
        (["--data", "mine=a,b", "--split-file", "other=x"], "no --data has this name"),
        (["--data", "mine=a,b", "--teacher", "EMMA"], "is no fusion rule"),
        (["--data", "mine=a,b", "--recipe", "none"], "known: paper, released"),
        (["--data", "mine=a,b", "--config", "missing.toml"], "cannot be read"),
        (["--data", "mine=a,b", "--precision", "fp8"], "precision"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(said)):
        train_app()(["sensing", "--modality", "ir", *options], standalone_mode=False)


def test_an_exclusion_that_excludes_nothing_is_an_error(world, tmp_path):
    (tmp_path / "skip.txt").write_text("999\n")
    with pytest.raises(DataError, match="nothing would be left out"):
        find_data([Source("mine", folders=(world / "ir", world / "vi"), exclude_file=tmp_path / "skip.txt")])


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(world, tmp_path):
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_training import *\n"
        "one = TransformConfig(identity=True, shifts=0, rotations=0, reflections=0)\n"
        "schedule = replace(SHORT, steps=2, batch=2)\n"
        "engine = Engine('cpu')\n"
        "assert engine.world == 2\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "run_fuser(root, out, replace(FUSER, transforms=one, schedule=schedule), engine=engine)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*launcher, str(script), str(world), str(tmp_path / "two")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    one = TransformConfig(identity=True, shifts=0, rotations=0, reflections=0)
    run_fuser(world, tmp_path / "one", replace(FUSER, transforms=one, schedule=replace(SHORT, steps=2, batch=4)))
    found, wanted = (load_ufuser(tmp_path / name / LAST)[0].state_dict() for name in ("two", "one"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4)
    assert steps_logged(tmp_path / "two") == 2
