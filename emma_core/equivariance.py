"""The transforms T_g of a fused image, of which EMMA learns without ground truth (arXiv:2305.11443, Eq. 3 and 4).

Parameters are drawn apart from applying them: :func:`draw` takes a generator, a :class:`Transform` is deterministic
and has an inverse. The idea of learning from such invariances is equivariant imaging (Chen et al., ICCV 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.training_config import TransformConfig

Item = TypeVar("Item")


class Transform(Protocol):
    """A transform with its parameters."""

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Transform a batch, (B, C, H, W) to the same; differentiable."""

    def inverse(self) -> Transform:
        """Return the transform that undoes this one."""


@dataclass(frozen=True)
class Identity:
    """The image as it is."""

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return images

    def inverse(self) -> Identity:
        """Return the same."""
        return self


@dataclass(frozen=True)
class Shift:
    """A cyclic shift: what leaves at one side enters at the other. Its inverse is exact.

    Attributes:
        rows: downwards [pixels].
        columns: to the right [pixels].
    """

    rows: int
    columns: int

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return torch.roll(images, (self.rows, self.columns), (-2, -1))

    def inverse(self) -> Shift:
        """Return the shift back."""
        return Shift(-self.rows, -self.columns)


@dataclass(frozen=True)
class Reflection:
    """A reflection. It is its own inverse, exactly.

    Attributes:
        horizontal: left becomes right.
        vertical: up becomes down.
    """

    horizontal: bool = True
    vertical: bool = False

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return images.flip([axis for axis, mirrored in ((-1, self.horizontal), (-2, self.vertical)) if mirrored])

    def inverse(self) -> Reflection:
        """Return the same."""
        return self


@dataclass(frozen=True)
class Rotation:
    """A rotation about the centre, bilinear, with zeros where nothing is known.

    Multiples of 180 degrees, and of 90 for square images, move pixels to pixels, and so their inverse is exact. For
    any other angle it is approximate, and only inside the largest circle around the centre: the corners are
    lost, and interpolation smooths.

    Attributes:
        degrees: anticlockwise.
    """

    degrees: float

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same; H and W need not be equal."""
        height, width = images.shape[-2:]
        quarters, rest = divmod(self.degrees, 90)
        if rest == 0 and (height == width or quarters % 2 == 0):
            return torch.rot90(images, int(quarters), (-2, -1))
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        # From a place in the result to its source; coordinates run from -1 to 1 along each side, hence the ratios.
        rows = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
        matrix = torch.tensor(rows, device=images.device, dtype=images.dtype)
        grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def inverse(self) -> Rotation:
        """Return the rotation back; see above for where it is exact."""
        return Rotation(-self.degrees)


REFLECTIONS = (Reflection(), Reflection(horizontal=False, vertical=True), Reflection(vertical=True))


def draw(config: TransformConfig, height: int, width: int, generator: torch.Generator) -> list[Transform]:
    """Draw the transforms of one step.

    Args:
        config: how many of which kind.
        height: of the images [pixels]; at least 2 for shifts.
        width: likewise.
        generator: on the CPU; equal states give equal transforms.

    Returns:
        ``config.copies`` transforms: identity, shifts, rotations, reflections.
    """

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    transforms: list[Transform] = [Identity()] if config.identity else []
    transforms += [Shift(1 + below(height - 1), 1 + below(width - 1)) for _ in range(config.shifts)]
    if config.angles:
        transforms += [Rotation(angle) for angle in _choose(config.angles, config.rotations, generator)]
    else:
        angles = 360 * torch.rand(config.rotations, generator=generator, dtype=torch.float64)
        transforms += [Rotation(angle) for angle in angles.tolist()]
    transforms += _choose(REFLECTIONS, config.reflections, generator)
    return transforms


def apply_all(transforms: Sequence[Transform], images: torch.Tensor) -> torch.Tensor:
    """Concatenate the transformed copies of a batch: (B, C, H, W) to (N B, C, H, W) for N transforms."""
    return torch.cat([transform.apply(images) for transform in transforms])


def _choose(items: Sequence[Item], number: int, generator: torch.Generator) -> list[Item]:
    """Draw some items without repetition; they keep their order."""
    chosen = torch.randperm(len(items), generator=generator)[:number].sort().values
    return [items[index] for index in chosen.tolist()]
