"""The command ``reproduce``: what is missing of one of the paper's tables is run, and the report written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import EmmaError
from emma_core.options import DryRun, Runs, Seeds, numbers

if TYPE_CHECKING:
    from emma_core.reproduce import Plan, Request, Step

Tables = Annotated[str, typer.Argument(metavar="TABLE", help="table1, table3, table4, table5 or all.")]


def reproduce(
    table: Tables,
    root: Annotated[Path, typer.Option(help="Folder that holds the data sets, each in a folder of its name.")],
    method: Annotated[str, typer.Option(help="How to fuse; table5 is made by EMMA.")] = "EMMA",
    weights: Annotated[Path | None, typer.Option(help="Of EMMA, instead of the shipped ones.")] = None,
    recipe: Annotated[str, typer.Option(help="Of detectors and segmenters; quick says little, but soon.")] = "paper",
    seeds: Seeds = "0",
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Run what is missing of one of the paper's tables, or of all, and write the report.

    Says first what is done, what is to run, and how long that takes here. A stopped run goes on with the same command.

    Example: emma-tasks reproduce table3 --root ~/data
    """
    from emma_core.fusers import fusion_method
    from emma_core.reproduce import Request, make_plan, run_steps

    request = Request(root, runs, fusion_method(method).name, weights, recipe, numbers("--seeds", seeds))
    plan = make_plan(table, request)
    _foretell(plan, request)
    if dry_run:
        return
    failed = run_steps(plan, request, _run)
    _write_report(runs)
    for step in failed:
        typer.echo(f"Failed: {step.command}", err=True)
    if failed or plan.absent:
        raise EmmaError(f"{len(failed)} steps failed, {len(plan.absent)} tables have no data; the rest is done")


def _foretell(plan: Plan, request: Request) -> None:
    """Say what is done, what is to run and how long it takes."""
    from emma_core.reproduce import by_another_recipe, estimate, is_done

    known, unknown = 0.0, 0
    for step in plan.steps:
        if is_done(step, request):
            typer.echo(f"{step.paper.title}: done     {step.command}")
            continue
        seconds = estimate(step, request)
        known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
        other = by_another_recipe(step, request) if seconds is None else None
        hint = f"; by recipe {other[0]} a run took {_duration(other[1])}" if other else ""
        typer.echo(f"{step.paper.title}: to run   {step.command}  ({_duration(seconds)}{hint})")
    for paper, reason in plan.absent:
        typer.echo(f"{paper.title}: no data  {reason}")
    parts = [_duration(known)] if known else []
    parts += [f"{unknown} steps of unknown length (no row of them has been run here by this recipe)"] if unknown else []
    typer.echo(f"Takes {' and '.join(parts)}" if parts else "Nothing to run")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _run(step: Step) -> int:
    """Run a step as a process of its own, which prints for itself."""
    typer.echo(f"\n$ {step.command}")
    return subprocess.call([sys.executable, "-m", "emma_core.cli", *step.arguments])  # noqa: S603 - our own command


def _write_report(runs: Path) -> None:
    from emma_core.commands import report

    typer.echo()
    report(runs)
