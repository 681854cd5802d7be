"""What a training run tells: ``log.jsonl``, TensorBoard, pictures, and a line or a bar for whoever watches."""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from emma_core.files import read_text
from emma_core.images import write_atomic, write_image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from emma_core.images import FloatImage

LOG, PICTURES = "log.jsonl", "pictures"
LINE_SECONDS = 60
"""Time between two lines where there is no terminal for a bar."""


class TrainingLog:
    """The record of one run. A run that goes on from step n drops what was written after step n."""

    def __init__(
        self, folder: Path, step: int, steps: int, title: str, *, unit: str = "step", quiet: bool = False
    ) -> None:
        """Open the log of a run in its folder.

        Args:
            folder: of the run.
            step: number of steps that are done.
            steps: number of steps in all.
            title: for the bar.
            unit: what a step is called: a detector counts epochs, and parts of them, as one may take an hour.
            quiet: whether nothing is shown.
        """
        self._folder, self._first, self._steps, self._title, self._quiet = folder, step, steps, title, quiet
        self._unit = unit
        self._stack = ExitStack()
        self._said = self._begun = time.perf_counter()
        self._before = 0.0

    def __enter__(self) -> Self:
        """Cut the log back, and open it."""
        from torch.utils.tensorboard import SummaryWriter

        path = self._folder / LOG
        _rewind(path, self._first)
        self._before = logged_seconds(path)
        self._stream = self._stack.enter_context(path.open("a", encoding="utf-8"))
        self._stack.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = _leave_to_the_caller
        self._board = self._stack.enter_context(SummaryWriter(str(self._folder), purge_step=self._first + 1))
        self._open_bar()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        self._write({"step": step, **values, "seconds": self._seconds()})
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def validation(self, step: int, values: Mapping[str, float], picture: FloatImage | None, text: str = "") -> None:
        """Write the numbers of a validation, and its picture, (H, W) in [0, 1]; print them, or a text instead."""
        self._write({"step": step, "validation": dict(values), "seconds": self._seconds()})
        for name, value in values.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        if picture is not None:
            write_image(self._folder / PICTURES / f"step-{step:06d}.png", picture)
            self._board.add_image("validation", picture, step, dataformats="HW")
        self._board.flush()
        self.say(f"step {step}: {text or named_values(values)}")

    def tick(self, step: float, loss: float) -> None:
        """Show how far the run is: steps that are done, with the part of the one that is not."""
        now = time.perf_counter()
        rate = (step - self._first) / (now - self._begun)
        speed = self._speed(rate)
        self._bar.update(self._task, completed=step, loss=loss, speed=speed)
        if self._bar.disable and now - self._said >= LINE_SECONDS:
            self._said = now
            left = (self._steps - step) / rate / 60
            long = f"{left:.0f} min" if left >= 1 else "less than 1 min"
            done = step if isinstance(step, int) else f"{step:.2f}"
            self.say(f"{self._unit} {done} of {self._steps}: loss {loss:.4g}, {speed}, {long} left")

    def _seconds(self) -> float:
        """Return how long all parts of the run took until now."""
        return round(self._before + time.perf_counter() - self._begun, 3)

    def _speed(self, rate: float) -> str:
        """Say how many steps are done a second, or how long one takes."""
        return f"{rate:.2f} {self._unit}s a second" if rate >= 1 else f"{1 / rate:.1f} s for each {self._unit}"

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._bar.console.print(f"{self._title}: {text}", highlight=False, markup=False, soft_wrap=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, quiet=self._quiet)
        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}, {task.fields[speed]}"),
            TimeRemainingColumn(),
        ]
        bar = Progress(*columns, console=console, transient=True, disable=self._quiet or not console.is_terminal)
        self._bar = self._stack.enter_context(bar)
        self._task = self._bar.add_task(self._title, total=self._steps, completed=self._first, loss=math.nan, speed="")

    def _write(self, content: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(content) + "\n")
        self._stream.flush()


def named_values(values: Mapping[str, float]) -> str:
    """Write numbers out for whoever watches."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a ``log.jsonl`` up to one that is damaged: a killed process may leave half a line."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in read_text(path, errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if not (isinstance(line, dict) and isinstance(line.get("step"), int)):
                break
            lines.append(line)
    return lines


def logged_seconds(path: Path) -> float:
    """Return how long the steps and validations of a ``log.jsonl`` took, however often the run was stopped [s]."""
    told = [line.get("seconds") for line in read_log(path)]
    return max((float(value) for value in told if isinstance(value, int | float)), default=0.0)


def _leave_to_the_caller(raised: threading.ExceptHookArgs) -> None:
    """Print no traceback of a full disk: TensorBoard's thread dies of it, and its next call raises it again."""
    if not isinstance(raised.exc_value, OSError):
        threading.__excepthook__(raised)


def _rewind(path: Path, step: int) -> None:
    kept = [line for line in read_log(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
