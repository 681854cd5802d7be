"""Weights of detectors on disk: ours as safetensors that say what they are, and plain state dicts of others.

Nothing in a file is executed, whatever it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from emma_core.checkpoint import unpickle_plain
from emma_core.errors import CheckpointError
from emma_core.files import read_bytes
from emma_core.images import write_atomic
from emma_core.manifest import sha256
from emma_core.sealed import is_whole, metadata, seal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Tensors = dict[str, torch.Tensor]

FORMAT = 1
_METADATA = "emma-tasks-detector"


@dataclass(frozen=True)
class DetectorInfo:
    """What a file of our weights says about the detector.

    Attributes:
        classes: names, in the order of its outputs.
        architecture: as ultralytics builds it.
        size: longer side of the images that it was trained on [pixels].
    """

    classes: tuple[str, ...]
    architecture: Mapping[str, Any]
    size: int


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        tensors: by name, on the CPU.
        info: of our own files; None for others.
        names: class names, where a foreign file lists them.
        architecture: likewise, its description of the network.
    """

    path: Path
    sha256: str
    tensors: Tensors
    info: DetectorInfo | None = None
    names: tuple[str, ...] = ()
    architecture: Mapping[str, Any] | None = None


def save_detector(path: Path, tensors: Mapping[str, torch.Tensor], info: DetectorInfo) -> None:
    """Write a detector as safetensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, seal(_METADATA, {"format": FORMAT, **asdict(info)}, plain))


def read_weights(path: Path) -> WeightsFile:
    """Read our weights, other safetensors, or a pickled dictionary of plain tensors.

    A dictionary may hold the tensors under ``state_dict`` with ``names`` and ``yaml`` beside it.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than plain values.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected weights of a detector") from None
    if data[8:9] == b"{":  # safetensors begin with eight bytes of length and a JSON object
        return _read_safetensors(path, data)
    content = unpickle_plain(path, data)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not all(map(_is_plain, tensors.values())):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, or one under 'state_dict'")
    floats = {str(name): value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    beside: dict[str, Any] = content if isinstance(content, dict) and "state_dict" in content else {}
    names = beside.get("names", ())
    listed = tuple(map(str, names.values() if isinstance(names, dict) else names))
    return WeightsFile(path, sha256(data), floats, names=listed, architecture=beside.get("yaml"))


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _read_safetensors(path: Path, data: bytes) -> WeightsFile:
    try:
        tensors, content = safetensors.torch.load(data), metadata(_METADATA, data)
        found, whole = (content["format"], is_whole(content, data, old=True)) if content else (FORMAT, True)
        info = DetectorInfo(tuple(content["classes"]), content["architecture"], content["size"]) if content else None
    except Exception as error:  # whatever a damaged file provokes in two parsers
        raise CheckpointError(f"{path}: damaged weights ({type(error).__name__}); copy or train them again") from None
    if found != FORMAT:
        raise CheckpointError(f"{path}: weights of format {found!r}, this version reads {FORMAT}")
    if not whole:
        raise CheckpointError(f"{path}: damaged weights (checksum differs); copy or train them again")
    return WeightsFile(path, sha256(data), tensors, info)
