"""U-Fuser made ready for inference computes large images piece by piece; the pieces must not show."""

import pytest
import torch

from emma_core.chance import seeded
from emma_core.config import UFuserConfig
from emma_core.models import ufuser
from emma_core.models.ufuser import UFuser

SIDES = (72, 40)


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, 1, *SIDES, generator=generator).unbind()


def network(**changes):
    with seeded(0, "strips"):
        return UFuser(UFuserConfig(channels=(8, 16, 16, 16), **changes)).eval()


@pytest.mark.parametrize(
    ("changes", "finest_is_local"),
    [({}, True), ({"heads": 4}, False), ({"global_branch": False}, True), ({"local_branch": False}, True)],
)
def test_strips_and_parts_do_not_show(monkeypatch, changes, finest_is_local):
    whole = network(**changes)
    with torch.inference_mode():
        expected = whole(*pair())
        monkeypatch.setattr(ufuser, "STRIP", 11 * SIDES[1])  # strips of 11, 11, ... and 6 rows
        monkeypatch.setattr(ufuser, "PART", 37)
        frozen = whole.frozen()
        assert frozen.decoder[0].in_strips == finest_is_local
        assert frozen.decoder[3].in_strips == (not whole.config.global_branch)
        torch.testing.assert_close(frozen(*pair()), expected, atol=1e-6, rtol=0)


def test_a_strip_looks_as_far_as_its_block_and_no_further(monkeypatch):
    """With one row less around each strip the seams show: no row is computed twice in vain."""
    monkeypatch.setattr(ufuser, "STRIP", 24 * SIDES[1])
    whole = network()
    with torch.inference_mode():
        expected = whole(*pair())
        frozen = whole.frozen()
        frozen.decoder[0].reach -= 1
        seams = (frozen(*pair()) - expected).abs().amax(dim=(0, 1, 3))
    assert seams[[23, 24]].max() > 1e-6
    assert seams[[10, 36, 60]].max() < 1e-6


@pytest.mark.parametrize("sides", [(2, 2), (2, 5), (9, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [[3], [3, 5]])
def test_joining_and_reflecting_in_one_pass_changes_no_bit(widths, sides, dtype):
    with seeded(0, "one pass"):
        features = tuple(torch.rand(2, width, *sides, dtype=dtype) for width in widths)
    at_once = ufuser._reflected(features, in_one_pass=True)
    assert at_once.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(at_once, ufuser._reflected(features, in_one_pass=False))


def test_a_frozen_network_joins_and_reflects_in_one_pass(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "pad")
    frozen = network().frozen()
    with torch.inference_mode():
        assert frozen(*pair()).shape == (1, 1, *SIDES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_convolution_copies_its_input_into_another_layout(monkeypatch, dtype):
    as_wanted, conv2d = [], torch.nn.functional.conv2d

    def watched(x, *rest, **more):
        as_wanted.append(x.is_contiguous(memory_format=torch.channels_last))
        return conv2d(x, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    frozen = network().frozen().to(dtype)
    with torch.inference_mode():
        frozen(*(image.to(dtype) for image in pair()))
    assert as_wanted
    assert all(as_wanted)
