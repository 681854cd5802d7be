"""The table of fusion methods: EMMA, the naive rules and the classical ones, behind one call.

A :class:`Fuser` maps a pair of grey images to one: ``fuser(infrared, visible)``, each (1, 1, H, W) float32 in
[0, 1] in main memory, from any number of threads at once. Colour, sizes and tiles are the business of
:mod:`emma_core.fuse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emma_core import __version__, classical
from emma_core.batches import Batches
from emma_core.errors import EmmaError, UsageError
from emma_core.runtime import PRECISIONS, resolve_device, resolve_precision
from emma_core.text import same_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emma_core.classical import Rule
    from emma_core.models.frozen import FrozenUFuser

CPU = torch.device("cpu")

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "emma.safetensors"
"""What EMMA fuses with unless other weights are given; weights/README.md is their card."""

RANGES = ("sigmoid", "stretch")
"""What becomes of the network's output: as the sigmoid gives it, or stretched to each image's own minimum and
maximum, as the authors' test script does. The stretch changes EN, SD and AG of every image."""


@dataclass(frozen=True)
class FusionMethod:
    """One entry of the table.

    Attributes:
        name: as on the command line (case does not matter there) and in the paths of fused images.
        title: what it does, in a few words.
        reference: whose idea it is.
        rule: the function, or None for a network with weights.
    """

    name: str
    title: str
    reference: str
    rule: Rule | None


METHODS: dict[str, FusionMethod] = {
    method.name: method
    for method in (
        FusionMethod("EMMA", "U-Fuser trained with sensing and equivariance", "Zhao et al., CVPR 2024", None),
        FusionMethod("mean", "average of both images", "naive", classical.mean),
        FusionMethod("max", "pixel-wise maximum", "naive", classical.maximum),
        FusionMethod("laplacian", "Laplacian pyramid", "Burt and Adelson 1983, Burt 1984", classical.laplacian),
        FusionMethod("ratio", "ratio-of-low-pass pyramid", "Toet 1989", classical.ratio),
        FusionMethod("wavelet", "discrete wavelet transform", "after Li et al. 1995", classical.wavelet),
        FusionMethod("guided", "guided filter", "Li, Kang and Hu 2013", classical.guided),
        FusionMethod("two-scale", "two scales with saliency", "Bavirisetti and Dhuli 2016", classical.two_scale),
    )
}


@dataclass(frozen=True)
class Fuser:
    """A fusion method ready to run.

    Attributes:
        method: its name in the table.
        function: (1, 1, H, W) infrared and visible in [0, 1] to the fused, all in main memory.
        settings: everything that decides its output, as JSON; written into the manifest.
        stride: both sides of its input must be multiples of this [pixels].
        min_size: and at least this long.
        tiles: whether large images are worked on in tiles to bound memory.
        stretch: whether the fused image is stretched to its own minimum and maximum.
        device: where it computes.
    """

    method: str
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stride: int = 1
    min_size: int = 1
    tiles: bool = False
    stretch: bool = False
    device: torch.device = CPU

    def __call__(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Fuse a pair: (1, 1, H, W) float32 in [0, 1] each, in main memory; the result likewise."""
        return self.function(infrared, visible)


def fusion_method(name: str) -> FusionMethod:
    """Look a method up by name, without regard to case.

    Raises:
        UsageError: no such method; the message lists those that are known.
    """
    if known := same_name(name, METHODS):
        return METHODS[known]
    raise UsageError(f"Unknown fusion method {name!r}; known: {', '.join(METHODS)}")


def load_fuser(
    method: str = "EMMA",
    *,
    weights: Path | str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    output_range: str = "sigmoid",
    compiled: bool = False,
) -> Fuser:
    """Make a fusion method ready to run.

    Args:
        method: a name of the table.
        weights: checkpoint of EMMA: our ``.safetensors`` or the authors' ``EMMA.pth``; by default the shipped one.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; the classical rules run on the CPU.
        precision: number format of the network: ``fp32``, ``bf16``, or ``auto`` for what
            :func:`emma_core.runtime.resolve_precision` takes; the settings name the one that is used.
        output_range: ``sigmoid`` or ``stretch``, see :data:`RANGES`; EMMA only.
        compiled: let torch compile the network for each size of images, a minute or more with a C++ compiler at
            hand; what it is worth is in docs/speed.md. EMMA only.

    Returns:
        The fuser.

    Raises:
        UsageError: an unknown name, or weights for a method that has none.
        CheckpointError: the weights cannot be used.
    """
    chosen = fusion_method(method)
    place = resolve_device(device)
    used = resolve_precision(precision, place)
    if output_range not in RANGES:
        raise UsageError(f"Unknown output range {output_range!r}; expected {' or '.join(RANGES)}")
    if chosen.rule is None:
        return _emma(chosen, weights, place, used, output_range, compiled=compiled)
    for option, given in (("weights", weights), ("range", output_range != RANGES[0]), ("compile", compiled)):
        if given:
            raise UsageError(f"--{option} is for EMMA; {chosen.name} has none")
    return Fuser(chosen.name, _of_tensors(chosen.rule), {"method": chosen.name, "tool": __version__})


def _emma(
    method: FusionMethod,
    weights: Path | str | None,
    device: torch.device,
    precision: str,
    output_range: str,
    *,
    compiled: bool,
) -> Fuser:
    from emma_core.checkpoint import load_ufuser
    from emma_core.models.frozen import FrozenUFuser

    network, info = load_ufuser(Path(weights) if weights else SHIPPED_WEIGHTS)
    dtype = PRECISIONS[precision]
    frozen = FrozenUFuser(network).to(device, dtype)
    forward = _compiled(frozen) if compiled else frozen

    def function(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return forward(infrared.to(dtype), visible.to(dtype)).float()

    settings = {
        "method": method.name,
        "tool": __version__,
        "checkpoint_sha256": info.sha256,
        "recipe": info.recipe,
        "precision": precision,
        "device": device.type,
        "range": output_range,
    } | ({"compiled": True} if compiled else {})
    return Fuser(
        method.name,
        # A processor computes a pair per core: there threads of their own are better than batches.
        function if device.type == "cpu" else Batches(function, device),
        settings,
        stride=network.stride,
        min_size=network.min_size,
        tiles=True,
        stretch=output_range == "stretch",
        device=device,
    )


def _compiled(network: FrozenUFuser) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Let torch compile the network at the first images of each size."""
    from torch._dynamo.exc import BackendCompilerFailed  # a second to import

    forward = torch.compile(network, dynamic=False)

    def function(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        try:
            fused: torch.Tensor = forward(infrared, visible)
        except BackendCompilerFailed as error:
            reason = str(error).split("\n", 1)[0]
            raise EmmaError(f"torch cannot compile the network here ({reason}); leave --compile out") from None
        return fused

    return function


def _of_tensors(rule: Rule) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Make of a rule for two grey arrays a function of tensors."""

    def function(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rule(infrared[0, 0].numpy(), visible[0, 0].numpy()))[None, None]

    return function
