"""What installed packages add to the command line: tasks, and their parts of the demo (docs/adding_a_task.md)."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from emma_core import __distribution__
from emma_core.errors import EmmaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

TASKS = "emma_tasks.tasks"
"""Entry-point group of commands: functions with typer annotations."""

DEMOS = "emma_tasks.demos"
"""Entry-point group of parts of the demo: functions of the folder that holds the sample data sets and of the folder
of runs."""


def plugins(group: str) -> list[EntryPoint]:
    """Return what installed packages announce in a group, by name."""
    return sorted(entry_points(group=group), key=lambda entry: entry.name)


def load_task(entry: EntryPoint) -> Callable[..., None]:
    """Load the command of a task, making sure that it comes from the package that announces it.

    ``detection`` or ``segmentation`` are names that another project may use too; whichever was installed last
    would answer. So our own packages carry ``__distribution__``.

    Raises:
        EmmaError: the module belongs to another project.
    """
    package = import_module(entry.module.partition(".")[0])
    ours = entry.dist is not None and entry.dist.name == __distribution__
    if ours and getattr(package, "__distribution__", None) != __distribution__:
        raise EmmaError(
            f"the package {package.__name__!r} in {package.__file__} is another project's; "
            "install emma-tasks in an environment of its own"
        )
    command: Callable[..., None] = entry.load()
    return command


def recipes_of(task: str) -> ModuleType | None:
    """Return the module ``recipes`` of a task's package, if it has one: its ``RECIPES`` by name, and what they cost."""
    for entry in plugins(TASKS):
        if entry.name == task:
            try:
                return import_module(f"{entry.module.partition('.')[0]}.recipes")
            except ImportError:
                continue
    return None
