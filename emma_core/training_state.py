"""What a training run needs to go on where it was: one file, written whole or not at all, without pickles.

The file is safetensors: tensors by number, and a JSON skeleton that says where each belongs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from emma_core.errors import EmmaError
from emma_core.files import read_bytes
from emma_core.images import write_atomic
from emma_core.sealed import is_whole, metadata, seal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

FORMAT = 1
_METADATA = "emma-tasks-training"


class StateError(EmmaError):
    """The saved state of a training run is damaged or of another kind."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state.

    Args:
        path: of the file.
        state: nested dictionaries (keys str or int) and lists of tensors, numbers, strings, booleans and None.

    Raises:
        OSError: the file cannot be written.
        TypeError: the state holds anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    content = {"format": FORMAT, "state": _pack(state, tensors)}
    write_atomic(path, seal(_METADATA, content, tensors))


def load_state(path: Path) -> dict[str, Any]:
    """Read a state; tensors are on the CPU and contiguous.

    Raises:
        StateError: the file is missing, damaged or not a state.
    """
    try:
        data = read_bytes(path)
        content = metadata(_METADATA, data) or {}
        found, whole = content["format"], is_whole(content, data, old=True)
        state: dict[str, Any] = _unpack(content["state"], safetensors.torch.load(data))
    except Exception as error:  # whatever a damaged file provokes in two parsers
        raise StateError(
            f"{path}: not a training state ({type(error).__name__}); remove the file to begin anew"
        ) from None
    if found != FORMAT:
        raise StateError(f"{path}: training state of format {found!r}, this version reads {FORMAT}")
    if not whole:
        raise StateError(f"{path}: damaged training state (checksum differs); remove the file to begin anew")
    return state


def restore(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put saved weights and the state of the optimiser back where they were.

    Args:
        module: with the architecture that was saved.
        optimizer: over its parameters, in the same order.
        state: with ``module`` and ``optimizer``, as their ``state_dict`` gave them.

    Raises:
        StateError: the state is of another network.
    """
    try:
        module.load_state_dict(state["module"])
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, entries in state["optimizer"]["state"].items():
            entries.update({name: _laid_out(value, parameters[index]) for name, value in entries.items()})
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise StateError(f"the saved training state does not fit the network ({reason})") from None


def _laid_out(value: object, parameter: torch.Tensor) -> object:
    """Lay moments out in memory as their parameter, as they were: another order might round differently."""
    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value


def _pack(value: object, tensors: dict[str, torch.Tensor]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a training state cannot hold {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["items"]}
    return value
