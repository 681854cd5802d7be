"""Maps that carry a border of one pixel: what is done with them equals what is done with maps that are padded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from hypothesis import given, settings
from hypothesis import strategies as st

from emma_core.models import bordered
from emma_core.models.bordered import Convolution, clear_, in_strips, reflect_, with_border

pytestmark = pytest.mark.usefixtures("one_thread")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


@pytest.mark.parametrize("sides", [(2, 2), (2, 5), (9, 7)])
def test_a_border_is_reflected_or_cleared_bit_for_bit(sides):
    x = numbers(2, 3, *sides)
    assert torch.equal(reflect_(with_border(x)), F.pad(x, (1, 1, 1, 1), mode="reflect"))
    assert torch.equal(clear_(with_border(x)), F.pad(x, (1, 1, 1, 1)))
    assert with_border(x).is_contiguous(memory_format=torch.channels_last)


THEN = {"none": None, "relu": F.relu, "gelu": F.gelu, "add": torch.add, "mul": torch.mul, "add_": torch.add}


@pytest.mark.parametrize("fused", [True, False], ids=["oneDNN", "plain"])
@pytest.mark.parametrize(("then", "parts"), [*((then, 1) for then in THEN), ("none", 2), ("add", 2), ("add_", 2)])
@pytest.mark.parametrize(("outputs", "width"), [(5, 12), (8, 12), (8, 11), (16, 12)])
@pytest.mark.parametrize("lanes", [8, 16])
def test_a_convolution_is_that_of_torch(monkeypatch, lanes, outputs, width, parts, then, fused):
    monkeypatch.setattr(bordered, "LANES", lanes)
    if not fused:
        monkeypatch.setattr(bordered, "FUSED", frozenset())
    kernel, bias = numbers(outputs, 3 * parts, 3, 3), numbers(outputs)
    maps = [reflect_(with_border(numbers(2, 3, 6, width, seed=seed))) for seed in range(parts)]
    other = numbers(2, outputs, 8, width + 2, seed=9) if then in ("add", "mul", "add_") else None
    convolved = F.conv2d(torch.cat(maps, 1), kernel, bias)
    inner = [convolved] if other is None else [convolved, other[..., 1:-1, 1:-1]]
    expected = THEN[then](*inner) if then != "none" else convolved
    with torch.inference_mode():
        found = Convolution(kernel, bias)(*maps, then=then, other=other)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected, atol=1e-4, rtol=1e-4)
    assert found.shape == (2, outputs, 8, width + 2)
    assert (other is not None and found.data_ptr() == other.data_ptr()) == (then == "add_")


@pytest.mark.parametrize("fused", [True, False], ids=["oneDNN", "plain"])
def test_halving_and_the_last_convolution_have_the_borders_they_should(monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(bordered, "FUSED", frozenset())
    x, kernel, last = numbers(2, 3, 10, 16), numbers(3, 3, 3, 3), numbers(1, 3, 3, 3)
    whole = F.pad(x, (1, 1, 1, 1), mode="reflect")
    with torch.inference_mode():
        halved = Convolution(kernel, stride=2)(reflect_(with_border(x)))
        head = Convolution(last, numbers(1), border=False)(reflect_(with_border(x)))
    assert halved.shape == (2, 3, 7, 10)
    torch.testing.assert_close(halved[..., 1:-1, 1:-1], F.conv2d(whole, kernel, stride=2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head, F.conv2d(whole, last, numbers(1)), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 40),
    reach=st.integers(0, 6),
    strip=st.integers(1, 60),
    channels=st.sampled_from([1, 3]),
    in_place=st.booleans(),
)
def test_strips_do_not_show(height, reach, strip, channels, in_place):
    """A function that looks one row further than ``reach``, which is what the border is for."""
    width, x = 4, numbers(1, channels, height + 2, 6)

    def highest(x):
        """The greatest of each pixel's rows around it; the border of what comes out is of no account."""
        rows = F.max_pool2d(F.pad(x, (0, 0, reach + 1, reach + 1)), (2 * reach + 3, 1), stride=1)
        rows[:, :, [0, -1]] = torch.nan
        return rows

    expected = highest(x)[:, :, 1:-1]
    before, bordered.STRIP = bordered.STRIP, strip * (width + 2) * channels
    try:
        maps = [x.clone(memory_format=torch.channels_last)]
        found = in_strips(highest, maps, channels, reach, maps[0] if in_place else None)
    finally:
        bordered.STRIP = before
    assert torch.equal(found[:, :, 1:-1], expected)
