"""One step of each stage: losses and gradients are those of the paper, and go where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_trainings import FUSER, SENSING, SET, TINY, data_of, sensing_network

from emma_core import losses
from emma_core.chance import seeded, stream, torch_stream
from emma_core.config import to_dict
from emma_core.engine import Engine
from emma_core.equivariance import apply_all, draw
from emma_core.models.ufuser import UFuser
from emma_core.stages import FuserStep, Sensing, StageData, freeze, sensing_stage
from emma_core.training_config import RECIPES, CropConfig, FuserTraining, training_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_the_loss_of_one_batch_goes_down():
    fuser, _, _, step = fuser_step(FUSER)
    optimizer = torch.optim.Adam(fuser.parameters(), 3e-3)
    found = []
    for _ in range(8):  # on more batches it need not: these sensing networks have learnt nothing to pass on
        optimizer.zero_grad()
        found.append(step(batch_of(), 0)["loss"].item())
        optimizer.step()
    assert found[-1] < 0.97 * found[0]


def stage_data(root: Path, **options) -> StageData:
    data = data_of(root, **options)
    return StageData(data.training, data.validation, data.reader, CropConfig(), "test", 0)


@pytest.mark.parametrize("side", ["infrared", "visible"])
def test_the_step_of_a_sensing_network_compares_with_its_sensor(trainable, side):
    stage = sensing_stage(Engine("cpu"), SENSING, side, stage_data(trainable))
    batch = batch_of() | {"teacher": batch_of(4)["visible"][2:]}
    found = stage.step(batch, 0)["loss"]
    torch.testing.assert_close(found, losses.l1(stage.module(batch["teacher"]), batch[side]))


def test_the_validation_of_a_sensing_network_compares_with_its_sensor(trainable):
    data = stage_data(trainable, teachers=[("copy of visible", trainable / "vi")])
    training = replace(SENSING, classical=())
    stages = [sensing_stage(Engine("cpu"), training, side, data) for side in ("infrared", "visible")]
    infrared, visible = (stage.validate().values["copy"] for stage in stages)
    assert visible < 1e-6
    assert infrared > 0.05
