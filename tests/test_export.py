"""Exported networks: they answer like the network at any size, or no file is left."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, emma, random_image

from emma_core import export
from emma_core.checkpoint import save_checkpoint
from emma_core.config import UFuserConfig
from emma_core.errors import CheckpointError
from emma_core.fuse import fuse_pair
from emma_core.fusers import load_fuser
from emma_core.images import read_image, write_image
from emma_core.models.ufuser import UFuser

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.export warns of its own internals
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)  # noqa: TID251 - initial weights take no generator
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(path, UFuser(UFuserConfig((8, 8, 16, 16))), recipe="quick", provenance={})
    return path


def images(height, width):
    rng = np.random.default_rng(height)
    return (rng.random((1, 1, height, width), np.float32) for _ in range(2))


def test_a_program_answers_like_the_network_at_a_size_it_never_saw(weights, tmp_path):
    outcome = emma("export", tmp_path / "net.pt2", "--weights", weights, "--format", "exported-program")
    assert outcome.returncode == 0, outcome.stderr
    program = torch.export.load(io.BytesIO((tmp_path / "net.pt2").read_bytes())).module()
    network = export.load_ufuser(weights)[0].eval()
    infrared, visible = map(torch.from_numpy, images(104, 56))
    with torch.inference_mode():
        torch.testing.assert_close(program(infrared, visible), network(infrared, visible), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_answers_like_the_network_at_a_size_it_never_saw(weights, tmp_path):
    import onnxruntime

    outcome = emma("export", tmp_path / "net.onnx", "--weights", weights)
    assert outcome.returncode == 0, outcome.stderr
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    infrared, visible = images(104, 56)
    found = session.run(None, {"infrared": infrared, "visible": visible})[0]
    network = export.load_ufuser(weights)[0].eval()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(infrared), torch.from_numpy(visible)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_the_example_of_the_docs_fuses_two_files(weights, tmp_path, monkeypatch):
    """The very lines of docs/speed.md, on sides that are no multiples of eight."""
    page = (REPOSITORY / "docs" / "speed.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert emma("export", tmp_path / "emma.onnx", "--weights", weights).returncode == 0
    pair = random_image(1, (50, 61)), random_image(2, (50, 61))
    for name, image in zip(("ir.png", "vis.png"), pair, strict=True):
        write_image(tmp_path / name, image)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "speed.md", "exec"), {})
    read = [read_image(tmp_path / name) for name in ("ir.png", "vis.png", "fused.png")]
    expected = fuse_pair(*read[:2], load_fuser(weights=weights, device="cpu", precision="fp32"))
    assert np.abs(read[2] - expected).max() <= 0.51 / 255  # the file is rounded to grey levels


def test_what_answers_differently_is_not_kept(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="not written"):
        export.export_fuser(weights, tmp_path / "net.pt2", "exported-program")
    assert not (tmp_path / "net.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["net.onnx", "--format", "tflite"], "onnx or exported-program"),
        (["net.pt2"], "ends in .onnx for --format onnx, .pt2 for --format exported-program"),
        (["there.onnx"], "--overwrite"),
    ],
)
def test_bad_requests(arguments, says, tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"")
    outcome = emma("export", *arguments, cwd=tmp_path)
    assert outcome.returncode == 2
    assert says in outcome.stderr


def test_onnx_without_its_packages_says_what_to_install(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    outcome = emma("export", tmp_path / "net.onnx", "--weights", weights)
    assert outcome.returncode == 2
    assert "install: pip install onnx" in outcome.stderr
