"""The house: imports go one way and stay light, the wheel holds four packages, and a stranger's task plugs in."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, emma_process, write_pairs

import emma_core
from emma_core import cli, plugins
from emma_core.errors import EmmaError

TASK_PACKAGES = {"detection", "segmentation", "medical"}
PACKAGES = {"emma_core", *TASK_PACKAGES}
HEAVY = {"torch", "torchvision", "cv2", "PIL", "scipy", "pywt", "jinja2", "matplotlib", "pandas", "ultralytics"}


def imported_packages(file: Path) -> set[str]:
    """Top-level names a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_tasks_import_the_core_and_nothing_imports_tasks(package):
    for file in (REPOSITORY / package).rglob("*.py"):
        forbidden = TASK_PACKAGES - {package}
        assert not imported_packages(file) & forbidden, file


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    ["import emma_core", "import emma_core.cli; emma_core.cli.build_app()", "import emma_core.samples"],
)
def test_light_imports_load_nothing_heavy(statement):
    assert not loaded_by(statement) & HEAVY


def test_help_of_every_command_loads_nothing_heavy():
    for command in cli.commands.COMMANDS:
        code = f"import sys; sys.argv = ['emma-tasks', {command!r}, '--help']\nfrom emma_core.cli import main\n"
        assert not loaded_by(code + "try: main()\nexcept SystemExit: pass") & HEAVY, command


def test_public_names_load_on_first_use_and_exist():
    assert "torch" not in loaded_by("import emma_core; emma_core.__version__")
    for name in emma_core.__all__:
        assert getattr(emma_core, name) is not None
    assert set(emma_core.__all__) <= set(dir(emma_core))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = emma_core.nonsense


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_package_says_whose_it_is(package):
    assert importlib.import_module(package).__distribution__ == "emma-tasks"


def install(source: Path, target: Path) -> None:
    """Install a project without network; its build tool is among the development requirements."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)


def test_the_wheel_holds_exactly_the_four_packages(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(REPOSITORY)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    for needed in ("emma_core/report/published.json", "emma_core/report/page.html", "emma_core/py.typed"):
        assert needed in names


def test_a_strangers_task_is_installed_listed_run_and_reported(tmp_path, monkeypatch):
    install(REPOSITORY / "docs" / "example_task", tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert "hotspots" in emma_process("--help").stdout
    root, runs = write_pairs(tmp_path / "TNO", 3, shape=(48, 64)), tmp_path / "runs"
    emma_process("fuse-dataset", "TNO", "--root", root, "--runs", runs, "--method", "max")
    done = emma_process("hotspots", "TNO", "--root", root, "--runs", runs)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["IR", "VI", "max"]
    emma_process("report", "--runs", runs)
    assert "Hot spots" in (runs / "report" / "tables.md").read_text()


class _Entry:
    name, module = "detect", "detection.command"
    dist = types.SimpleNamespace(name="emma-tasks")


def test_another_projects_detection_gives_a_clear_error(monkeypatch):
    foreign = types.ModuleType("detection")
    foreign.__file__ = "site-packages/detection/__init__.py"
    monkeypatch.setitem(sys.modules, "detection", foreign)
    with pytest.raises(EmmaError, match=r"another project's; install emma-tasks in an environment of its own"):
        plugins.load_task(_Entry())


def test_a_broken_task_does_not_take_the_core_along(monkeypatch, capsys):
    broken = importlib.metadata.EntryPoint("broken", "no_such_module:command", plugins.TASKS)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [broken])
    names = {command.name for command in cli.build_app().registered_commands}
    assert names == set(cli.commands.COMMANDS)
    assert "Warning: the task 'broken' cannot be loaded" in capsys.readouterr().err
