"""U-Fuser made ready for inference computes what it was made from, whatever it does for speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from emma_core.chance import seeded
from emma_core.config import UFuserConfig
from emma_core.models import bordered, frozen
from emma_core.models.frozen import FrozenUFuser
from emma_core.models.ufuser import ChannelNorm, UFuser

SIDES = (72, 40)
CONFIG = UFuserConfig(channels=(8, 16, 16, 16))  # nothing is scored at the finest scale
ABLATIONS = {"heads": {"heads": 4}, "Exp. IV": {"global_branch": False}, "Exp. V": {"local_branch": False}}

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(*sides: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, 1, *(sides or SIDES), generator=generator).unbind()


def network(**changes) -> UFuser:
    with seeded(0, "frozen"):
        made = UFuser(replace(CONFIG, **changes)).eval()
        for module in made.modules():  # as trained ones: what is 1 or 0 to begin with hides whether it is used
            if isinstance(module, ChannelNorm):
                torch.nn.init.normal_(module.weight, 1, 0.2)
                torch.nn.init.normal_(module.bias, 0, 0.2)
    return made


def small_strips(monkeypatch, rows: int, channels: int = 8) -> None:
    monkeypatch.setattr(bordered, "STRIP", rows * (SIDES[1] + 2) * channels)


def both(made: UFuser, images: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the frozen network computes, and what it should."""
    with torch.inference_mode():
        return FrozenUFuser(made)(*images), made(*images)


@pytest.mark.parametrize("fused", [True, False], ids=["oneDNN", "plain"])
@pytest.mark.parametrize("rows", [1000, 11], ids=["whole", "strips"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("changes", [{}, *ABLATIONS.values()], ids=["complete", *ABLATIONS])
def test_it_computes_the_same(monkeypatch, changes, batch, rows, fused):
    small_strips(monkeypatch, rows)
    if not fused:
        monkeypatch.setattr(bordered, "FUSED", frozenset())
    torch.testing.assert_close(*both(network(**changes), pair(batch=batch)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
@pytest.mark.parametrize("widths", [(8, 8, 8, 8), (16, 32, 64, 128), (4, 12, 20, 24)])
def test_it_does_for_all_widths_and_processors(monkeypatch, lanes, widths):
    monkeypatch.setattr(bordered, "LANES", lanes)
    sides = 24, 40  # at the coarsest scale 3 x 5 pixels
    torch.testing.assert_close(*both(network(channels=widths, heads=4), pair(*sides)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("sides", [(16, 16), (16, 200), (136, 16)])
def test_it_does_for_the_smallest_sides(sides):
    torch.testing.assert_close(*both(network(), pair(*sides)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("place", [0, 1], ids=["nothing scored", "scored"])
@pytest.mark.parametrize("changes", [{}, {"local_branch": False}], ids=["complete", "Exp. V"])
def test_a_strip_looks_as_far_as_its_block_and_no_further(monkeypatch, changes, place):
    """With one row less around each strip the seams show: no row is computed twice in vain."""
    made = network(**changes)
    small_strips(monkeypatch, 26)
    with torch.inference_mode():
        expected = made(*pair())
        ours = FrozenUFuser(made)
        ours.decoder[place].reach -= 1
        differences = (ours(*pair()) - expected).abs().amax(dim=(0, 1, 3))
    assert differences.max() > 1e-6
    assert differences[:12].max() < 2e-6  # far from a seam


@pytest.mark.parametrize("fused", [True, False], ids=["oneDNN", "plain"])
def test_bfloat16_stays_close(monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(bordered, "FUSED", frozenset())
    made, mixing, types = network(), frozen.attention_mixing, set()
    monkeypatch.setattr(frozen, "attention_mixing", lambda *given: types.add(given[0].dtype) or mixing(*given))
    with torch.inference_mode():
        coarse = FrozenUFuser(made).to(torch.bfloat16)(*(image.bfloat16() for image in pair()))
        exact = made(*pair())
    assert coarse.dtype == torch.float32  # or its values would come in steps of a grey level
    assert types == {torch.float32}  # sums over all pixels
    torch.testing.assert_close(coarse, exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_compiler_sees_one_graph_without_strips(monkeypatch, batch):
    small_strips(monkeypatch, 11)
    made, images = network(), pair(16, 24, batch=batch)
    with torch.inference_mode():
        compiled = torch.compile(FrozenUFuser(made), backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(*images), made(*images), atol=2e-6, rtol=0)


def test_it_leaves_the_network_and_the_images_alone():
    made, images = network(), pair()
    copies = [image.clone() for image in images]
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with torch.inference_mode():
        ours = FrozenUFuser(made)
        before = ours(*images)
        ours.bfloat16()
        torch.testing.assert_close(made.state_dict(), weights, atol=0, rtol=0)
        torch.testing.assert_close(images, tuple(copies), atol=0, rtol=0)
        ours = FrozenUFuser(made)
        for parameter in made.parameters():
            parameter.zero_()
        torch.testing.assert_close(ours(*images), before, atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_convolution_copies_its_input_into_another_layout(monkeypatch, dtype):
    as_wanted, convolved = [], bordered.convolved

    def watched(x, *rest, **more):
        as_wanted.append(x.is_contiguous(memory_format=torch.channels_last))
        return convolved(x, *rest, **more)

    monkeypatch.setattr(bordered, "convolved", watched)
    small_strips(monkeypatch, 11)
    ours = FrozenUFuser(network()).to(dtype)
    with torch.inference_mode():
        ours(*(image.to(dtype) for image in pair()))
    assert as_wanted
    assert all(as_wanted)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("dtype", "channels", "products"),
    [
        (torch.float32, 8, True),
        (torch.float32, 16, True),
        (torch.float32, 32, False),
        (torch.bfloat16, 8, True),
        (torch.bfloat16, 24, False),
        (torch.bfloat16, 256, True),
        (torch.bfloat16, 512, False),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_normalisation_is_right_to_its_digits(monkeypatch, dtype, channels, products, offset, scaled):
    """Even where a large mean would swallow the digits of the variance, if it were not taken off first."""
    norm = ChannelNorm(channels)
    with seeded(0, "norm"), torch.no_grad():
        if scaled:
            norm.weight.copy_(1 + torch.rand(channels))
            norm.bias.copy_(torch.rand(channels))
        x = (offset + 2 * torch.rand(2, channels, 5, 6)).to(dtype).contiguous(memory_format=torch.channels_last)
    counted, pointwise = [], frozen.pointwise
    monkeypatch.setattr(frozen, "pointwise", lambda *given: counted.append(1) or pointwise(*given))
    with torch.inference_mode():
        expected = norm(x.float())
        found = frozen._Norm(norm, scaled=scaled).to(dtype)(x)
    assert found.dtype == dtype
    assert bool(counted) == products
    near = {"atol": 1e-4, "rtol": 0} if dtype is torch.float32 else {"atol": 0.03, "rtol": 0.02}
    torch.testing.assert_close(found.float(), expected, **near)
