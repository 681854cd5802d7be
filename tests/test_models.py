"""The two networks and their ablations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from hypothesis import given, settings
from hypothesis import strategies as st

from emma_core.chance import seeded
from emma_core.config import NETWORK_RECIPES, NetworkRecipe, SensingConfig, UFuserConfig, network_recipe
from emma_core.errors import UsageError
from emma_core.models.ufuser import (
    FULL_DEPTH,
    ChannelAttention,
    ChannelNorm,
    GatedFeedForward,
    RestormerCNNBlock,
    UFuser,
    branch_depths,
)
from emma_core.models.unet import SensingUNet

NARROW = UFuserConfig(channels=(16, 16, 16, 16))
NARROW_SENSING = SensingConfig(channels=(4, 6, 8))
ABLATIONS = {"Exp. IV": {"global_branch": False}, "Exp. V": {"local_branch": False}}

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_paper(build, config):
    """A network without memory: only its shapes are of interest."""
    with torch.device("meta"):
        return build(config)


def train_step(network: torch.nn.Module, *inputs: torch.Tensor) -> tuple[float, float]:
    """Loss against zero before and after one small step."""
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    before = network(*inputs).square().mean()
    before.backward()
    optimiser.step()
    return before.item(), network(*inputs).square().mean().item()


# The U-Fuser


def test_parameter_counts_are_those_of_the_released_checkpoints():
    released = NETWORK_RECIPES["released"]
    assert parameters(on_paper(UFuser, released.ufuser)) == 1_517_657
    assert parameters(on_paper(SensingUNet, released.sensing)) == 39_397_761


def test_paper_networks_are_the_default_and_their_size_is_known():
    assert network_recipe("paper") == NetworkRecipe(UFuserConfig(), SensingConfig())
    assert UFuserConfig().channels == (16, 32, 64, 128)
    assert parameters(on_paper(UFuser, UFuserConfig())) == 13_500_721
    assert parameters(on_paper(SensingUNet, SensingConfig())) == 39_485_633


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(2, 5), columns=st.integers(2, 5), batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_ufuser_keeps_the_size_and_answers_within_the_range(rows, columns, batch, seed):
    shape = (batch, 1, 8 * rows, 8 * columns)
    with torch.inference_mode():
        fused = UFuser(NARROW)(images(*shape, seed=seed), images(*shape, seed=seed + 1))
    assert fused.shape == shape
    assert fused.dtype == torch.float32
    assert 0 <= fused.min() <= fused.max() <= 1


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_ufuser_takes_constant_images(value):
    network = UFuser(NARROW)
    fused = network(torch.full((1, 1, 16, 16), value), torch.full((1, 1, 16, 16), value))
    fused.mean().backward()
    assert fused.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("shape", "other", "message"),
    [
        ((1, 1, 20, 32), None, "20 x 32 pixels: both sides must be multiples of 8, at least 16"),
        ((1, 1, 32, 31), None, "multiples of 8"),
        ((1, 1, 8, 64), None, "at least 16"),
        ((1, 1, 0, 16), None, "at least 16"),
        ((1, 3, 32, 32), None, r"grey images \(B, 1, H, W\), found \(1, 3, 32, 32\)"),
        ((32, 32), None, "grey images"),
        ((1, 1, 32, 32), (1, 1, 32, 40), "differ in shape"),
    ],
)
def test_ufuser_refuses_sizes_that_do_not_fit(shape, other, message):
    with pytest.raises(UsageError, match=message):
        UFuser(NARROW)(torch.zeros(shape), torch.zeros(other or shape))


def test_smallest_side_is_the_smallest_that_works():
    assert UFuser.min_size == 2 * UFuser.stride  # a reflected border needs two pixels at the coarsest scale
    assert UFuser(NARROW)(*[images(1, 1, UFuser.min_size, UFuser.min_size)] * 2).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("config", [NARROW, replace(NARROW, heads=2), replace(NARROW, heads=16)])
def test_images_of_a_batch_do_not_meet(config):
    network = UFuser(config).eval()
    infrared, visible = images(3, 1, 24, 32), images(3, 1, 24, 32, seed=1)
    with torch.inference_mode():
        batch = network(infrared, visible)
        alone = torch.cat([network(infrared[[i]], visible[[i]]) for i in range(3)])
    torch.testing.assert_close(batch, alone, atol=1e-6, rtol=0)


def test_ufuser_does_not_depend_on_the_memory_layout():
    network, other = UFuser(NARROW), UFuser(NARROW).to(memory_format=torch.contiguous_format)
    other.load_state_dict(network.state_dict())
    pair = images(2, 1, 24, 32), images(2, 1, 24, 32, seed=1)
    torch.testing.assert_close(network(*pair), other(*pair), atol=1e-5, rtol=0)


def test_every_parameter_of_the_ufuser_learns():
    network = UFuser(NARROW)
    network(images(2, 1, 16, 16), images(2, 1, 16, 16, seed=1)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_temperature_of_single_channel_heads_is_not_trained_because_it_cannot_matter():
    network = UFuser(NETWORK_RECIPES["released"].ufuser)  # 8 channels and 8 heads at the finest scale
    still = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    places = ("encoder_visible", "encoder_infrared", "fusion", "decoder")
    assert still == {f"{place}.0.restormer.0.attention.temperature" for place in places}
    pair = images(1, 1, 16, 16), images(1, 1, 16, 16, seed=1)
    before = network(*pair)
    with torch.no_grad():
        network.fusion[0].restormer[0].attention.temperature.fill_(7)
        network.fusion[0].restormer[0].attention.qkv_spatial.weight[:16] = 3
    torch.testing.assert_close(network(*pair), before, atol=0, rtol=0)


def test_bfloat16_stays_close():
    network = UFuser(NARROW).eval()
    pair = images(1, 1, 64, 64), images(1, 1, 64, 64, seed=1)
    with torch.inference_mode():
        exact = network(*pair)
        coarse = network.bfloat16()(*(image.bfloat16() for image in pair))
    assert coarse.dtype == torch.float32  # or its values would come in steps of a grey level
    assert (coarse - exact).abs().max() < 0.02


def test_ufuser_blocks_can_be_exported():
    block, x = RestormerCNNBlock(4, 16, FULL_DEPTH, heads=8).eval(), images(1, 4, 6, 8)
    with torch.inference_mode():
        exported = torch.export.export(block, (x,)).module()
        torch.testing.assert_close(exported(x), block(x), atol=1e-6, rtol=0)


# Blocks against their formulas, written out


def plain_attention(block: ChannelAttention, x: torch.Tensor) -> torch.Tensor:
    """Restormer, equation 1, step by step."""
    batch, channels, height, width = x.shape
    projected = F.conv2d(block.qkv(x), block.qkv_spatial.weight, padding=1)
    query, key, value = (part.reshape(batch, block.heads, -1, height * width) for part in projected.chunk(3, 1))
    scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2)
    weighted = torch.softmax(scores * block.temperature, dim=-1) @ value
    return block.project(weighted.reshape(batch, channels, height, width))


def plain_feed_forward(block: GatedFeedForward, x: torch.Tensor) -> torch.Tensor:
    """Restormer, equation 2, step by step."""
    padded = F.pad(block.expand(x), (1, 1, 1, 1), mode="reflect")
    gate, content = F.conv2d(padded, block.spatial.weight, groups=x.shape[1]).chunk(2, 1)
    return block.project(F.gelu(gate) * content)


@pytest.mark.parametrize(
    ("block", "plain"),
    [
        (ChannelAttention(8, 8), plain_attention),
        (ChannelAttention(8, 2), plain_attention),
        (ChannelAttention(24, 8), plain_attention),
        (GatedFeedForward(8), plain_feed_forward),
    ],
)
def test_fast_blocks_equal_their_formulas_in_value_and_gradient(block, plain):
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter[0].numel())
    x = images(2, block.project.in_channels, 12, 16).requires_grad_()
    wanted = [x, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
    found, expected = block(x), plain(block, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = (torch.autograd.grad(output.square().sum(), wanted) for output in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()) + 1e-4, rtol=1e-4)


def test_channel_norm_normalises_every_pixel():
    normal = ChannelNorm(16)(3 * images(2, 16, 4, 5) + 1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2, 4, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(1, correction=0), torch.ones(2, 4, 5), atol=1e-3, rtol=0)


# Ablations


@pytest.mark.parametrize("switches", ABLATIONS.values(), ids=ABLATIONS)
@pytest.mark.parametrize("recipe", NETWORK_RECIPES)
def test_ablations_keep_the_number_of_parameters(recipe, switches):
    full = NETWORK_RECIPES[recipe].ufuser
    ratio = parameters(on_paper(UFuser, replace(full, **switches))) / parameters(on_paper(UFuser, full))
    assert ratio == pytest.approx(1, abs=0.05)


@settings(max_examples=6, deadline=None)
@given(widths=st.lists(st.integers(1, 8), min_size=4, max_size=4), switches=st.sampled_from([*ABLATIONS.values()]))
def test_ablations_keep_it_at_any_width(widths, switches):
    full = UFuserConfig(channels=tuple(8 * width for width in widths))
    ratio = parameters(on_paper(UFuser, replace(full, **switches))) / parameters(on_paper(UFuser, full))
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("switches", "removed"), [*zip(ABLATIONS.values(), ("restormer", "residual"), strict=True)])
def test_ablations_remove_the_branch_and_train(switches, removed):
    network = UFuser(replace(NARROW, **switches))
    names = [name for name, _ in network.named_parameters()]
    assert not [name for name in names if f".{removed}." in name]
    assert [name for name in names if ".merge." in name]
    before, after = train_step(network, images(1, 1, 16, 16), images(1, 1, 16, 16, seed=1))
    assert after < before


def test_complete_blocks_are_those_of_the_checkpoints():
    assert branch_depths(NARROW, 16) == (FULL_DEPTH, FULL_DEPTH)
    assert (FULL_DEPTH.restormer, FULL_DEPTH.residual) == (1, 2)


# The sensing network


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), levels=st.integers(2, 4))
def test_sensing_keeps_the_size_and_answers_within_the_range(rows, columns, levels):
    network = SensingUNet(SensingConfig(channels=(4, 6, 8, 10)[:levels])).eval()
    assert network.stride == network.min_size == 2 ** (levels - 1)
    shape = (2, 1, network.stride * rows, network.stride * columns)
    with torch.inference_mode():
        sensed = network(images(*shape))
    assert sensed.shape == shape
    assert 0 <= sensed.min() <= sensed.max() <= 1


@pytest.mark.parametrize("shape", [(1, 1, 6, 8), (1, 1, 8, 7), (1, 1, 0, 8), (1, 3, 8, 8), (8, 8)])
def test_sensing_refuses_sizes_that_do_not_fit(shape):
    with pytest.raises(UsageError, match=r"multiples of 4|grey images"):
        SensingUNet(NARROW_SENSING)(torch.zeros(shape))


def test_every_parameter_of_the_sensing_network_learns():
    with seeded(0, "sensing"):  # a channel or two can start dead, and in four all of them
        network = SensingUNet(NARROW_SENSING).eval()  # in training, normalisation cancels the biases before it
    network(images(2, 1, 16, 16)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_sensing_network_trains():
    before, after = train_step(SensingUNet(NARROW_SENSING), images(2, 1, 16, 16))
    assert after < before
