"""What the tests share: the real images where they are, made-up pairs, and the command line as people run it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from emma_core import cli
from emma_core.checkpoint import authors_name, save_checkpoint
from emma_core.config import NETWORK_RECIPES
from emma_core.images import write_image
from emma_core.models.ufuser import UFuser

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EMMA_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real images; tests that ask for it carry the marker ``data``."""
    if not DATA.is_dir():
        pytest.skip(f"real images are absent: {DATA} (set EMMA_DATA)")
    return DATA


@pytest.fixture(scope="session")
def reference(data: Path) -> Path:
    """Folder of the reference values, beside the real images."""
    return data.parent / "reference"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks and images are quickest on one thread, whatever else the machine does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_image(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth image with some grain, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    wave = 0.5 + 0.3 * np.sin(rows / 7 + seed) * np.cos(columns / 5)
    image = wave.reshape(wave.shape + (1,) * (len(shape) - 2)) + 0.1 * rng.standard_normal(shape)
    return np.clip(image, 0, 1).astype(np.float32)


def write_pairs(
    root: Path, count: int, *, shape: tuple[int, int] = (24, 32), folders: tuple[str, str] = ("ir", "vi")
) -> Path:
    """Write equally named pairs: grey infrared, colour visible."""
    for index in range(count):
        write_image(root / folders[0] / f"{index:03d}.png", random_image(index, shape))
        write_image(root / folders[1] / f"{index:03d}.png", random_image(100 + index, (*shape, 3)))
    return root


@pytest.fixture(scope="session")
def trainable(tmp_path_factory) -> Path:
    """A folder with pairs in ``ir`` and ``vi``, and sensing networks ``Ai`` and ``Av``; see small_trainings.py."""
    from small_trainings import sensing_network

    root = write_pairs(tmp_path_factory.mktemp("trainable"), 8, shape=(48, 56))
    for seed, name in enumerate(("Ai", "Av")):
        save_checkpoint(root / f"{name}.safetensors", sensing_network(seed), recipe="test", provenance={})
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Outcome:
    """What a command left: exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def emma(*arguments: str | Path, cwd: Path | None = None) -> Outcome:
    """Run ``emma-tasks`` in this process: the same entry point, without three seconds for loading torch."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["emma-tasks", *map(str, arguments)])
        patch.chdir(cwd or Path.cwd())
        try:
            cli.main()
        except SystemExit as leave:
            status = int(leave.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def emma_process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``emma-tasks`` in a process of its own."""
    command = [sys.executable, "-m", "emma_core.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def write_released_checkpoint(path: Path) -> Path:
    """Write untrained weights in the authors' layout, as their ``EMMA.pth`` would be."""
    torch.manual_seed(0)  # noqa: TID251 - initial weights take no generator
    state = UFuser(NETWORK_RECIPES["released"].ufuser).state_dict()
    torch.save({authors_name("ufuser", name): tensor for name, tensor in state.items()}, path)
    return path


@contextmanager
def killed_at_its_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop a run when all images are made, and the manifest is not yet written."""
    with monkeypatch.context() as patch:
        patch.setattr("emma_core.fuse_dataset.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
