"""``emma-tasks benchmark``: how fast pairs are fused on this machine, beside the plain network.

Imports stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import UsageError
from emma_core.options import Device, DryRun, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.benchmark import Figures

SPEED, MEMORY, ACCURACY = 4.0, 0.5, 50.0
"""What fuse-dataset is held to: times as fast as the plain loop at 480 x 640; share of the plain network's working
memory at 768 x 1024; PSNR to the plain output [dB]."""


def benchmark(
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels, or several, with commas.")] = "480x640,768x1024",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs that each way fuses in a turn.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns, of which the median counts.")] = 3,
    recipe: Annotated[str, typer.Option(help="Widths of the network: released, or paper (untrained).")] = "released",
    weights: Annotated[Path | None, typer.Option(help="Measure this checkpoint instead.")] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; by default one for every core.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures as CSV.")] = Path("runs/benchmark"),
    dry_run: DryRun = False,
) -> None:
    """Measure seconds, memory and accuracy of fusing beside a plain network and a plain loop over files.

    Example: emma-tasks benchmark --size 480x640 --pairs 4 --repeats 3
    """
    sizes = [_size(text) for text in size.split(",")]
    if dry_run:
        typer.echo(f"Would fuse {pairs} rendered pairs {repeats + 1} times in each way at {size} into {out}")
        return
    from emma_core.benchmark import WAYS, Job, machine, measure

    typer.echo(machine(device))
    typer.echo(
        f"recipe {recipe}; {pairs} pairs, medians of {repeats} turns; beside the plain ways: faster, share, PSNR"
    )
    typer.echo("working: MiB on top of the loaded program; PSNR in dB, in files after rounding to 8 bits")
    for height, width in sizes:
        job = Job(height, width, pairs, repeats, recipe, weights, device, threads)
        with progress_bar(f"{height} x {width}", len(WAYS) * (1 + repeats)) as advance:
            figures = measure(job, on_turn=advance)
        typer.echo(f"\n{height} x {width}\n{_table(figures)}\n{_verdict(figures)}")
        _write_csv(out / f"fuse-{recipe}-{height}x{width}.csv", figures, machine(device))


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.strip().partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 64):
        raise UsageError(f"--size {text!r}: expected HEIGHTxWIDTH of at least 64 pixels, e.g. --size 480x640")
    return int(height), int(width)


def _table(figures: Sequence[Figures]) -> str:
    """Lay the figures out in columns."""
    lines = [
        f"{'':32}{'s/pair':>8}{'pairs/s':>9}{'faster':>9}{'MiB':>7}{'working':>9}{'share':>7}{'PSNR':>8}{'TFLOP/s':>9}"
    ]
    for each in figures:
        tflops = "-" if math.isnan(each.tflops) else f"{each.tflops:.3f}"
        lines.append(
            f"{each.stage + ': ' + each.way:32}{each.seconds:8.3f}{each.pairs_per_second:9.2f}{each.ratio:7.2f} x"
            f"{each.peak_mib:7.0f}{each.working_mib:9.0f}{each.memory_ratio:7.2f}{each.psnr:8.1f}{tflops:>9}"
        )
    return "\n".join(lines)


def _verdict(figures: Sequence[Figures]) -> str:
    """Say how fuse-dataset stands to what it is held to."""
    default = figures[-1]
    network = next(each for each in figures if each.stage == "network" and each.way == "plain")
    share = default.working_mib / network.working_mib
    return (
        f"fuse-dataset: {default.ratio:.2f} times as fast as the plain loop (target {SPEED:g} at 480 x 640), "
        f"{share:.2f} of the plain network's working memory (target {MEMORY:g} at 768 x 1024), "
        f"PSNR {default.psnr:.1f} dB (target {ACCURACY:g})"
    )


def _write_csv(path: Path, figures: Sequence[Figures], where: str) -> None:
    import csv
    import io
    from dataclasses import asdict, fields

    from emma_core.images import write_atomic

    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*(field.name for field in fields(figures[0])), "machine"], lineterminator="\n")
    writer.writeheader()
    for each in figures:
        rounded = {
            key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in asdict(each).items()
        }
        writer.writerow(rounded | {"machine": where})
    write_atomic(path, stream.getvalue().encode())
    typer.echo(f"Written: {path}")
