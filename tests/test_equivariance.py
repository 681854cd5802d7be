"""T_g: what is drawn, what it does, and that its inverse undoes it."""

from __future__ import annotations

import pytest
import torch
from conftest import random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from emma_core.equivariance import REFLECTIONS, Identity, Reflection, Rotation, Shift, apply_all, draw
from emma_core.errors import UsageError
from emma_core.training_config import TransformConfig, training_recipe

side = st.integers(1, 40)


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(side, side, st.integers(-50, 50), st.integers(-50, 50))
def test_a_shift_is_undone_exactly(height, width, rows, columns):
    x, shift = images(height, width), Shift(rows, columns)
    assert torch.equal(shift.inverse().apply(shift.apply(x)), x)


@settings(deadline=None)
@given(side, side, st.sampled_from(REFLECTIONS))
def test_a_reflection_is_undone_exactly(height, width, reflection):
    x = images(height, width)
    assert torch.equal(reflection.inverse().apply(reflection.apply(x)), x)


@settings(deadline=None)
@given(side, st.integers(-8, 8))
def test_quarter_turns_of_a_square_are_undone_exactly(length, quarters):
    x, rotation = images(length, length), Rotation(90.0 * quarters)
    assert torch.equal(rotation.inverse().apply(rotation.apply(x)), x)


@settings(deadline=None)
@given(side, side)
def test_half_turns_are_undone_exactly_whatever_the_shape(height, width):
    x = images(height, width)
    assert torch.equal(Rotation(180.0).apply(x), x.flip(-1, -2))


@pytest.mark.parametrize("degrees", [10.0, 130.0, 250.0, 37.5])
def test_other_rotations_are_nearly_undone_inside_the_circle_and_lose_the_corners(degrees):
    rows, columns = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    x = (0.5 + 0.4 * torch.sin(rows / 9) * torch.cos(columns / 11))[None, None]
    back = Rotation(degrees).inverse().apply(Rotation(degrees).apply(x))
    inside = rows.square() + columns.square() < 30**2
    assert (back - x).abs()[0, 0][inside].max() < 0.01
    assert back[0, 0, 0, 0] == 0


@pytest.mark.parametrize("shape", [(33, 33), (20, 33)])
def test_a_rotation_is_anticlockwise_and_keeps_angles_in_any_shape(shape):
    x = torch.zeros(1, 1, *shape)
    middle, centre = shape[0] // 2, shape[1] // 2
    x[0, 0, middle, centre + 6] = 1
    turned = Rotation(89.999).apply(x)[0, 0]
    row, column = divmod(int(turned.argmax()), shape[1])
    assert middle - row in {6, 7}
    assert abs(column - centre) <= 1


def test_shifts_and_reflections_go_where_their_attributes_say():
    x = images(5, 7)
    assert torch.equal(Shift(rows=1, columns=2).apply(x)[..., 1:, 2:], x[..., :-1, :-2])
    assert torch.equal(Reflection(horizontal=True).apply(x)[..., 0], x[..., -1])
    assert torch.equal(Reflection(horizontal=False, vertical=True).apply(x)[..., 0, :], x[..., -1, :])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_exact_turns_equal_interpolated_ones(quarters):
    x = images(17, 17)
    turned = Rotation(90.0 * quarters - 1e-4).apply(x)
    torch.testing.assert_close(Rotation(90.0 * quarters).apply(x), turned, atol=1e-4, rtol=0)


def test_gradients_flow_through_every_transform():
    transforms = [Identity(), Shift(1, 2), Rotation(30.0), Rotation(90.0), Reflection()]
    x = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: apply_all(transforms, image), x)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32))
def test_the_released_set_has_ten_copies(height, width, seed):
    transforms = draw(training_recipe("released").fuser.transforms, height, width, torch.Generator().manual_seed(seed))
    assert transforms[0] == Identity()
    for shift in transforms[1:4]:
        assert 0 < shift.rows < height
        assert 0 < shift.columns < width
    assert transforms[4:7] == [Rotation(10.0), Rotation(130.0), Rotation(250.0)]
    assert transforms[7:] == list(REFLECTIONS)
    assert apply_all(transforms, images(height, width)).shape == (20, 1, height, width)


def test_the_generator_alone_decides():
    config = TransformConfig(identity=True, shifts=2, rotations=2, reflections=2)
    first, again, other = (draw(config, 32, 48, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == config.copies == 7
    assert len(set(first)) == 7


def test_without_a_choice_angles_are_drawn_from_the_whole_turn():
    config = TransformConfig(shifts=0, rotations=400, reflections=0)
    angles = sorted(rotation.degrees for rotation in draw(config, 8, 8, torch.Generator().manual_seed(0)))
    assert 0 <= angles[0] < 10
    assert 350 < angles[-1] < 360
    assert 160 < angles[200] < 200


def test_sets_that_cannot_be_drawn_are_refused():
    with pytest.raises(UsageError, match="there are 3 reflections"):
        TransformConfig(reflections=4)
    with pytest.raises(UsageError, match="2 rotations out of 1 angles"):
        TransformConfig(rotations=2, angles=(10.0,))


def test_real_images_keep_their_range():
    x = torch.from_numpy(random_image(3, (31, 47)))[None, None]
    turned = Rotation(77.0).apply(x)
    assert turned.min() >= 0
    assert turned.max() <= x.max() + 1e-6
