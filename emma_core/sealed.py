"""Safetensors with a checksum over every byte: what is read is what was written, or it is refused."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import safetensors.torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_BLANK = "0" * 64


def seal(name: str, content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Lay out tensors and what is said of them as a file; equal arguments give equal bytes.

    Args:
        name: of the entry of metadata; one, because safetensors writes several in any order.
        content: of that entry, plain values.
        tensors: on the CPU, contiguous, none sharing memory with another.
    """
    text = json.dumps({**content, "checksum": _BLANK}, sort_keys=True)
    data = safetensors.torch.save(dict(tensors), {name: text})
    return data.replace(_BLANK.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def metadata(name: str, data: bytes) -> dict[str, Any] | None:
    """Return what a file says of its tensors, unverified; None if it is safetensors without such an entry.

    Raises:
        Exception: whatever a damaged file provokes in the parser.
    """
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header.get("__metadata__", {}).get(name)
    content: dict[str, Any] | None = None if text is None else json.loads(text)
    return content


def is_whole(content: Mapping[str, Any], data: bytes, *, old: bool = False) -> bool:
    """Tell whether not one byte has changed since :func:`seal`.

    Args:
        content: from :func:`metadata`.
        data: of the file.
        old: whether a file without a checksum, from before there was one, passes.
    """
    if "checksum" not in content:
        return old
    blank = data.replace(content["checksum"].encode(), _BLANK.encode(), 1)
    return bool(hashlib.sha256(blank).hexdigest() == content["checksum"])
