"""The fusion network for other runtimes: an ONNX file, or a program of torch.export.

Height and width stay free (multiples of the network's stride). A file is kept only after it answered like the network
on sizes that it was not traced with.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from typing import TYPE_CHECKING

import torch

from emma_core.chance import torch_stream
from emma_core.checkpoint import load_ufuser
from emma_core.errors import CheckpointError, UsageError
from emma_core.images import require_writable, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emma_core.models.ufuser import UFuser

    Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "exported-program": ".pt2"}
"""Formats, and how their files end."""

TRACED = (96, 128)
CHECKED = ((64, 64), (72, 200), (240, 320))
TOLERANCE = 1e-4
"""Largest difference to the network that is let pass, in a range of 0 to 1: a fortieth of a grey level."""

MAX_SIDE = 16384


def export_fuser(weights: Path, out: Path, form: str = "onnx") -> float:
    """Write a fusion network for another runtime.

    Its inputs are ``infrared`` and ``visible``, its output ``fused``: (1, 1, H, W) float32 in [0, 1], H and W
    multiples of the stride, 8 for four scales.

    Args:
        weights: checkpoint of the network, ours or the authors'.
        out: the file; it should end as :data:`SUFFIXES` says.
        form: ``onnx``, or ``exported-program`` for ``torch.export.load``.

    Returns:
        The largest difference to the network on sizes that it was not traced with.

    Raises:
        UsageError: an unknown format, or onnx is not installed.
        CheckpointError: the weights cannot be used, or what was exported answers differently; no file is written.
        OSError: the file cannot be written.
    """
    if form not in SUFFIXES:
        raise UsageError(f"Unknown format {form!r}; expected {' or '.join(SUFFIXES)}")
    network = load_ufuser(weights)[0].eval().requires_grad_(requires_grad=False)
    require_writable(out)
    content = _onnx(network) if form == "onnx" else _program(network)
    difference = _largest_difference(network, _open(content, form))
    if not difference <= TOLERANCE:
        raise CheckpointError(f"{weights}: what was exported differs by {difference:.2g} from the network; not written")
    write_atomic(out, content)
    return difference


def _trace(network: UFuser) -> torch.export.ExportedProgram:
    """Trace the network with free height and width."""
    dim, stride = torch.export.Dim, network.stride
    height, width = (stride * dim(name, min=2, max=MAX_SIDE // stride) for name in ("rows", "columns"))
    free = {2: height, 3: width}
    return torch.export.export(network, _images(*TRACED), dynamic_shapes=(free, free))


def _program(network: UFuser) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():  # of weights that share memory with nothing, on a CPU, where it is of no account
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(_trace(network), stream)
    return stream.getvalue()


def _onnx(network: UFuser) -> bytes:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs {', '.join(missing)}; install: pip install {' '.join(missing)}")
    names = ["infrared", "visible"]
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every constant that it leaves as it is
    program = torch.onnx.export(_trace(network), dynamo=True, input_names=names, output_names=["fused"], verbose=False)
    content: bytes = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    return content


def _open(content: bytes, form: str) -> Network:
    """Make what was exported callable, from its bytes, as whoever gets the file will."""
    if form == "exported-program":
        return torch.export.load(io.BytesIO(content)).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"infrared": infrared.numpy(), "visible": visible.numpy()})[0])

    return run


def _largest_difference(network: Network, exported: Network) -> float:
    pairs = [_images(*size) for size in CHECKED]
    with torch.inference_mode():
        return max(float((network(*pair) - exported(*pair)).abs().max()) for pair in pairs)


def _images(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_stream(0, "export", height, width)
    one, other = torch.rand(2, 1, 1, height, width, generator=generator)
    return one, other
