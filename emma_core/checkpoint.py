"""THE save and load of networks: our safetensors files, and the ``.pth`` files of EMMA's authors.

Ours carry what they are (kind, widths, recipe, provenance) and a checksum over every byte. The authors' files
(``EMMA.pth``, ``Ai.pth``, ``Av.pth``) are pickles: they are read as plain tensors, and one with code in it is
refused. The only module that calls ``torch.load``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import safetensors.torch
import torch
from torch import nn

from emma_core import __version__
from emma_core.config import NETWORK_RECIPES, SensingConfig, UFuserConfig, from_dict, to_dict
from emma_core.errors import CheckpointError, UsageError
from emma_core.files import read_bytes
from emma_core.images import write_atomic
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.sealed import is_whole, metadata, seal
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Network = TypeVar("Network", bound=nn.Module)
Kind = Literal["ufuser", "sensing"]
Tensors = dict[str, torch.Tensor]

FORMAT = 1
_METADATA = "emma-tasks"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "checkpoint", "net", "network", "params")
_KINDS: tuple[Kind, ...] = ("ufuser", "sensing")
_TITLES = {"ufuser": "a fusion network (U-Fuser)", "sensing": "a sensing network (U-Net)"}

_UFUSER_NAMES = (
    (r"^encoder_visible\.(\d+)", "V_en_{}", 1),
    (r"^encoder_infrared\.(\d+)", "I_en_{}", 1),
    (r"^fusion\.(\d+)", "f_{}", 1),
    (r"^decoder\.(\d+)", "de_{}", 1),
    (r"^down_visible\.(\d+)", "V_down{}", 1),
    (r"^down_infrared\.(\d+)", "I_down{}", 1),
    (r"^up\.(\d+)", "up{}.0", 2),
    (r"^head", "last.0", None),
    (r"\.restormer\.0", ".GlobalFeature", None),
    (r"\.norm_attention", ".norm1.body", None),
    (r"\.norm_feed_forward", ".norm2.body", None),
    (r"\.attention\.temperature", ".attn.scale", None),
    (r"\.attention\.qkv\.", ".attn.qkv1.", None),
    (r"\.attention\.qkv_spatial", ".attn.qkv2", None),
    (r"\.attention\.project", ".attn.proj", None),
    (r"\.feed_forward\.expand", ".mlp.project_in", None),
    (r"\.feed_forward\.spatial", ".mlp.dwconv", None),
    (r"\.feed_forward\.project", ".mlp.project_out", None),
    (r"\.residual\.(\d+)", ".LocalFeature.Extraction.{}", 0),
    (r"\.conv1", ".conv.0", None),
    (r"\.conv2", ".conv.2", None),
    (r"\.merge", ".FFN", None),
)
_SENSING_NAMES = (
    (r"^encoder\.(\d+)", "down{}", 1),
    (r"^decoder\.(\d+)", "up{}", 1),
    (r"^up\.(\d+)", "up_sample{}.0", 2),
    (r"^head", "last.0", None),
    (r"\.conv1", ".conv.0", None),
    (r"\.norm1", ".conv.1", None),
    (r"\.conv2", ".conv.3", None),
    (r"\.norm2", ".conv.4", None),
)
AUTHORS_NAMES: dict[Kind, tuple[tuple[str, str, int | None], ...]] = {
    "ufuser": _UFUSER_NAMES,
    "sensing": _SENSING_NAMES,
}
"""How our names become the authors': pattern, replacement, and what is added to the number between them."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a file of weights says about itself.

    Attributes:
        path: of the file.
        sha256: of its bytes, hexadecimal.
        kind: ``ufuser`` or ``sensing``.
        recipe: it was trained by; for the authors' files the recipe with these widths, else ``unknown``.
        config: widths of the network, as plain values; typed in ``network.config``.
        provenance: how it came about, in the words of whoever saved it.
        source: format of the file: ``emma-tasks`` or ``authors``.
        tool: what wrote it; empty for the authors' files.
    """

    path: Path
    sha256: str
    kind: Kind
    recipe: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str] = field(default_factory=dict)
    source: Literal["emma-tasks", "authors"] = "emma-tasks"
    tool: str = ""


def save_checkpoint(path: Path, model: UFuser | SensingUNet, *, recipe: str, provenance: Mapping[str, str]) -> None:
    """Write a network as safetensors, whole or not at all; the same network gives the same bytes.

    Args:
        path: of the file, by custom ``*.safetensors``; its folder is made.
        model: the network.
        recipe: it was trained by, e.g. ``paper``.
        provenance: how it came about: data, commands, seeds.

    Raises:
        CheckpointError: the file cannot be written, or the network holds NaN or infinite weights.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_finite(path, tensors)
    content = {
        "format": FORMAT,
        "kind": "ufuser" if isinstance(model, UFuser) else "sensing",
        "config": to_dict(model.config),
        "recipe": recipe,
        "provenance": dict(provenance),
        "tool": f"emma-tasks {__version__}",
    }
    try:
        write_atomic(path, seal(_METADATA, content, tensors))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


def load_ufuser(path: Path) -> tuple[UFuser, CheckpointInfo]:
    """Read a fusion network: our ``.safetensors``, or the authors' ``EMMA.pth``.

    The format is told from the content. Nothing in the file is executed, whatever it is.

    Args:
        path: of the file.

    Returns:
        The network in evaluation mode, on the CPU, in float32; and what the file says about itself.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, of another kind, or does not fit the network.
    """
    info, tensors = _read(path, "ufuser")
    return _restore(info, tensors, lambda: UFuser(from_dict(UFuserConfig, info.config))), info


def load_sensing(path: Path) -> tuple[SensingUNet, CheckpointInfo]:
    """Read a sensing network: our ``.safetensors``, or the authors' ``Ai.pth`` and ``Av.pth``.

    Otherwise as :func:`load_ufuser`.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, of another kind, or does not fit the network.
    """
    info, tensors = _read(path, "sensing")
    return _restore(info, tensors, lambda: SensingUNet(from_dict(SensingConfig, info.config))), info


def authors_name(kind: Kind, name: str) -> str:
    """Translate the name of one of our tensors into the name that it has in the authors' checkpoints.

    >>> authors_name("ufuser", "encoder_visible.0.restormer.0.attention.temperature")
    'V_en_1.GlobalFeature.attn.scale'
    """
    for pattern, replacement, offset in AUTHORS_NAMES[kind]:
        if match := re.search(pattern, name):
            number = "" if offset is None else int(match[1]) + offset
            name = name[: match.start()] + replacement.format(number) + name[match.end() :]
    return name


def _read(path: Path, kind: Kind) -> tuple[CheckpointInfo, Tensors]:
    """Read a file of weights of one kind; the tensors keep the names that they have in the file."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected weights, .safetensors or the authors' .pth") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise CheckpointError(f"{path}: is empty; copy or download it again")
    # A safetensors file begins with eight bytes of length and a JSON object.
    info, tensors = (_read_ours if data[8:9] == b"{" else _read_authors)(path, data)
    if info.kind != kind:
        raise CheckpointError(f"{path}: holds {_TITLES[info.kind]}, expected {_TITLES[kind]}")
    return info, tensors


def _read_ours(path: Path, data: bytes) -> tuple[CheckpointInfo, Tensors]:
    try:
        content = _verified_metadata(path, data)
        info = CheckpointInfo(
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            kind=next(kind for kind in _KINDS if kind == content["kind"]),
            recipe=str(content["recipe"]),
            config=dict(content["config"]),
            provenance={str(key): str(value) for key, value in content["provenance"].items()},
            tool=str(content["tool"]),
        )
        return info, safetensors.torch.load(data)
    except CheckpointError:
        raise
    except Exception:  # whatever a damaged file provokes in two parsers
        raise CheckpointError(f"{path}: damaged checkpoint; copy or download it again") from None


def _verified_metadata(path: Path, data: bytes) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote about a network, if not one byte of the file has changed since."""
    content = metadata(_METADATA, data)
    if content is None:
        raise CheckpointError(f"{path}: safetensors, but no checkpoint of this tool")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint of format {content['format']!r}, this version reads {FORMAT}")
    if not is_whole(content, data):
        raise CheckpointError(f"{path}: damaged checkpoint (checksum differs); copy or download it again")
    return content


def _read_authors(path: Path, data: bytes) -> tuple[CheckpointInfo, Tensors]:
    tensors = _unwrap(path, unpickle_plain(path, data))
    kind, config = _describe(path, tensors)
    recipes = [
        name
        for name, recipe in NETWORK_RECIPES.items()
        if to_dict(recipe.ufuser if kind == "ufuser" else recipe.sensing) == config
    ]
    sha256 = hashlib.sha256(data).hexdigest()
    return CheckpointInfo(path, sha256, kind, recipes[0] if recipes else "unknown", config, source="authors"), tensors


def unpickle_plain(path: Path, data: bytes) -> object:
    """Read a file of ``torch.save`` that holds plain tensors, without executing anything.

    Args:
        path: for messages.
        data: content of the file.

    Raises:
        CheckpointError: it is damaged, or holds more than plain values.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns of what is refused in a moment
            _check_zip(data)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            _check_room(content, len(data))
            return content
    except pickle.UnpicklingError as error:
        if data.startswith((b"PK", b"\x80")) or re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise CheckpointError(
                f"{path}: refused, because it holds more than plain tensors, and unpickling that could execute code"
            ) from None
        raise CheckpointError(f"{path}: not a checkpoint; expected .safetensors, .pth or .pt") from None
    except Exception:  # whatever a damaged file provokes in the reader
        raise CheckpointError(f"{path}: damaged checkpoint, or none at all; copy or download it again") from None


def _check_zip(data: bytes) -> None:
    """Check what torch's reader of today's ``torch.save`` files does not: the checksums of the weights.

    Nor does it fill the weights of an entry that is marked as a folder: they would be whatever memory holds. And
    ``torch.save`` does not compress, so entries that are larger than the file were made to exhaust memory.
    """
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(data):
                raise zipfile.BadZipFile
            if archive.testzip() or any(entry.external_attr & 0x10 for entry in archive.infolist()):
                raise zipfile.BadZipFile


def _check_room(content: object, size: int) -> None:
    """Refuse tensors that are larger than their file [bytes]: all their elements would be one that is repeated."""
    seen: set[int] = set()  # what is nested may contain the same list many times over
    left = [content]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > size:
            raise ValueError("a tensor larger than its file")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value


def _unwrap(path: Path, content: object) -> Tensors:
    """Find the state dictionary in what training scripts save, and drop what wrappers put before its names."""
    for _ in _WRAPPERS:
        if isinstance(content, dict):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, expected a dictionary of tensors")
    names = [str(name) for name in content]
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    tensors = dict(zip(names, content.values(), strict=True))
    odd = [name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    if odd:
        raise CheckpointError(f"{path}: {odd[0]!r} is no tensor; expected a dictionary of tensors")
    return tensors


def _describe(path: Path, tensors: Tensors) -> tuple[Kind, dict[str, Any]]:
    """Tell the kind and the widths of a network from the authors' names and the shapes."""

    def width(name: str) -> int:
        if name not in tensors or tensors[name].ndim == 0:
            raise CheckpointError(f"{path}: tensor {name}, which tells the width, is missing")
        return tensors[name].shape[0]

    if any(name.startswith("V_en_") for name in tensors):
        channels = [width(f"V_en_{scale}.embed.weight") for scale in range(1, 5)]
        heads = width("V_en_1.GlobalFeature.attn.scale")
        return "ufuser", {"channels": channels, "heads": heads, "global_branch": True, "local_branch": True}
    levels = sum(re.fullmatch(r"down\d+\.conv\.0\.weight", name) is not None for name in tensors)
    if levels:
        return "sensing", {"channels": [width(f"down{level}.conv.0.weight") for level in range(1, levels + 1)]}
    raise CheckpointError(f"{path}: holds no network of EMMA, but {_some(list(tensors))}")


def _restore(info: CheckpointInfo, tensors: Tensors, build: Callable[[], Network]) -> Network:
    """Build the network that a file describes around the tensors that it holds."""
    try:
        with torch.device("meta"):  # shapes without memory: they are compared before anything is believed
            network = build()
    except UsageError as error:
        raise CheckpointError(f"{info.path}: {error}") from None
    wanted = network.state_dict()
    names = {ours: ours if info.source == "emma-tasks" else authors_name(info.kind, ours) for ours in wanted}
    _check_names(info.path, tensors, names.values())
    for ours, name in names.items():
        _check_tensor(info.path, name, tensors[name], wanted[ours])
    _check_finite(info.path, tensors)
    state = {ours: tensors[name].detach().to(wanted[ours].dtype) for ours, name in names.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().to(memory_format=torch.channels_last)


def _check_names(path: Path, found: Collection[str], wanted: Collection[str]) -> None:
    missing = [name for name in wanted if name not in found]
    unexpected = sorted(set(found) - set(wanted))
    if missing or unexpected:
        parts = [f"{_some(missing)} missing"] * bool(missing) + [f"{_some(unexpected)} unexpected"] * bool(unexpected)
        raise CheckpointError(f"{path}: does not fit the network; {'; '.join(parts)}")


def _check_tensor(path: Path, name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    if found.shape != wanted.shape:
        raise CheckpointError(f"{path}: tensor {name} has shape {[*found.shape]}, expected {[*wanted.shape]}")
    plain = found.layout is torch.strided and found.device.type == "cpu" and not found.is_complex()
    if not plain or found.is_floating_point() != wanted.is_floating_point():
        raise CheckpointError(f"{path}: tensor {name} is {found.dtype}, expected plain {wanted.dtype}")


def _check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{path}: NaN or infinite values in {_some(broken)}; such a network cannot be used")


def _some(names: list[str]) -> str:
    """Count names and spell the first few."""
    first = [" ".join(name.split())[:80] for name in names[:3]]
    return f"{counted(len(names), 'tensor')} ({', '.join(first)}{', ...' * (len(names) > 3)})"
