"""The command ``reproduce``: what is missing of one of the paper's tables is run, and the report written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import EmmaError
from emma_core.options import DryRun, Runs, Seeds, read_seeds
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.estimates import Estimate
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

    request = Request(root, runs, fusion_method(method).name, weights, recipe, read_seeds("--seeds", seeds))
    plan = make_plan(table, request)
    _foretell(plan, request)
    if dry_run:
        return
    failed = run_steps(plan, request, _run)
    _write_report(runs)
    for step in failed:
        typer.echo(f"Failed: {step.command}", err=True)
    if failed or plan.absent:
        absent = f"{counted(len(plan.absent), 'table')} {'has' if len(plan.absent) == 1 else 'have'} no data"
        raise EmmaError(f"{counted(len(failed), 'step')} failed, {absent}; the rest is done")


def _foretell(plan: Plan, request: Request) -> None:
    """Say what is done, what is to run and how long it takes."""
    from emma_core.estimates import by_another_recipe, estimate
    from emma_core.reproduce import is_done

    earlier: list[Step] = []
    found: list[Estimate | None] = []
    for step in plan.steps:
        if is_done(step, request):
            typer.echo(f"{step.paper.title}: done     {step.command}")
            continue
        known = estimate(step, request, earlier)
        earlier.append(step)
        found.append(known)
        other = by_another_recipe(step, request) if known is None or known.guessed else None
        hint = f"; by recipe {other[0]} a run took {_duration(other[1])} here" if other else ""
        typer.echo(f"{step.paper.title}: to run   {step.command}  ({_said(known)}{hint})")
    for paper, reason in plan.absent:
        typer.echo(f"{paper.title}: no data  {reason}")
    for note in _seen(plan, request):
        typer.echo(note)
    typer.echo(_total(found))


def _seen(plan: Plan, request: Request) -> list[str]:
    """Say of which data sets the weights have seen pairs, whose scores stand beside those of papers."""
    from emma_core.reproduce import FUSE, checkpoint_of
    from emma_core.seen import seen_note

    source = {"checkpoint_sha256": checkpoint_of(request.method, request)}
    fused = {step.pairs.dataset: step.pairs for step in plan.steps if step.arguments[0] == FUSE}
    return [note for name, pairs in fused.items() for note in seen_note(f"{name} by {request.method}", source, pairs)]


def _total(found: Sequence[Estimate | None]) -> str:
    """Add up what is known; what is only guessed stays apart."""
    measured = [each.seconds for each in found if each and not each.guessed]
    guessed = [each.seconds for each in found if each and each.guessed]
    unknown = [each for each in found if each is None]
    parts = [_duration(sum(measured))] if measured else []
    parts += [f"{counted(len(guessed), 'training step')} {_guess(sum(guessed))}"] if guessed else []
    why = "no row run here by this recipe, or pairs that cannot be read"
    parts += [f"{counted(len(unknown), 'step')} of unknown length ({why})"] if unknown else []
    return f"Takes {'; '.join(parts)}" if parts else "Nothing to run"


def _said(known: Estimate | None) -> str:
    if known is None:
        return "time unknown"
    return _guess(known.seconds) if known.guessed else _duration(known.seconds)


def _guess(seconds: float) -> str:
    return f"by a rough guess {_duration(seconds)} on two cores like those of docs/detection.md"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"about {seconds / 86400:.0f} days"


def _run(step: Step) -> int:
    """Run a step as a process of its own, which prints for itself."""
    typer.echo(f"\n$ {step.command}")
    return subprocess.call([sys.executable, "-m", "emma_core.cli", *step.arguments])  # noqa: S603 - our own command


def _write_report(runs: Path) -> None:
    from emma_core.commands import report

    typer.echo()
    report(runs)
