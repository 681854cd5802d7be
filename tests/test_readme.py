"""The README's commands and its Python example are run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_released_checkpoint

TEXT = (REPOSITORY / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in that is also the home folder, with the authors' checkpoint in it."""
    folder = tmp_path_factory.mktemp("readme")
    write_released_checkpoint(folder / "EMMA.pth")
    return folder


def run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(place), "PATH": path}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_commands_and_example_run_as_they_stand(place):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(commands) >= 10
    for command in commands:
        done = run(["bash", "-c", command], place)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (place / "runs" / "report" / "index.html").stat().st_size > 100_000
    (example,) = blocks("python")
    done = run([sys.executable, "-W", "error", "-c", example], place)
    assert done.returncode == 0, done.stderr
    assert "'EN':" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_training_commands_run_as_they_stand(tmp_path):
    (block,) = (block for block in blocks("") if "emma-tasks train" in block)
    done = run(["bash", "-ec", block], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "train" / "fuser-quick" / "best.safetensors").is_file()


def test_the_example_is_about_ten_lines():
    (example,) = blocks("python")
    lines = [line for line in example.splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert len(lines) <= 10


def test_every_command_is_explained_or_shown():
    from emma_core.commands import COMMANDS

    for name in COMMANDS:
        assert f"emma-tasks {name}" in TEXT or name == "demo"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?:docs/)?[\w./-]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (REPOSITORY / target).exists()
