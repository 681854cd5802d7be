"""``emma-tasks benchmark``: how fast pairs are fused on this machine, beside the plain network.

Imports stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import UsageError
from emma_core.options import Device, DryRun, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.benchmark import Figures

SHORTEST, LONGEST = 64, 20_000
"""Sides of the images that are rendered [pixels]."""

SPEED, MEMORY, ACCURACY = 4.0, 0.5, 50.0
"""What fuse-dataset is held to: times as fast as the plain loop at 480 x 640; share of the plain network's working
memory at 768 x 1024; PSNR to the plain output [dB]."""


def benchmark(
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels, or several, with commas.")] = "480x640,768x1024",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs that each way fuses in a turn.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns, of which the median counts.")] = 3,
    recipe: Annotated[
        str | None, typer.Option(help="Widths of the network: released (the default), or paper (untrained).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Measure this checkpoint instead.")] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; by default one for every core.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures as CSV.")] = Path("runs/benchmark"),
    dry_run: DryRun = False,
) -> None:
    """Measure seconds, memory and accuracy of fusing beside a plain network and a plain loop over files.

    Example: emma-tasks benchmark --size 480x640 --pairs 4 --repeats 3
    """
    if recipe and weights:
        raise UsageError("Give either --recipe or --weights; the weights say how wide their network is")
    sizes = [_size(text) for text in size.split(",")]
    network = _network_of(weights) if weights else recipe or "released"
    if dry_run:
        typer.echo(f"Would fuse {pairs} rendered pairs {repeats + 1} times in each way at {size} into {out}")
        return
    from emma_core.benchmark import WAYS, Job, machine, measure, write_figures
    from emma_core.images import require_writable

    paths = {size: out / f"fuse-{network}-{size[0]}x{size[1]}.csv" for size in sizes}
    for path in paths.values():
        require_writable(path)
    typer.echo(machine(device))
    typer.echo(f"{network}; {pairs} pairs, medians of {repeats} turns; beside the plain ways: faster, share, PSNR")
    typer.echo("working: MiB on top of the loaded program; PSNR in dB, in files after rounding to 8 bits")
    for (height, width), path in paths.items():
        job = Job(height, width, pairs, repeats, network, weights, device, threads)
        with progress_bar(f"{height} x {width}", len(WAYS) * (1 + repeats)) as advance:
            figures = measure(job, on_turn=advance)
        typer.echo(f"\n{height} x {width}\n{_table(figures)}\n{_verdict(figures)}")
        write_figures(path, [asdict(each) for each in figures], machine(device))
        typer.echo(f"Written: {path}")


def _network_of(weights: Path) -> str:
    """Name the network of a checkpoint, which is read so that a damaged one is told of once and at once."""
    from emma_core.checkpoint import load_ufuser

    return f"weights-{load_ufuser(weights)[1].sha256[:12]}"


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.strip().partition("x")
    sides = height, width
    if not (by and all(side.isdecimal() and len(side) < 6 and SHORTEST <= int(side) <= LONGEST for side in sides)):
        raise UsageError(
            f"--size {text!r}: expected HEIGHTxWIDTH of {SHORTEST} to {LONGEST} pixels each, e.g. --size 480x640"
        )
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
    loop = next(each for each in figures if each.stage == "files" and each.way == "plain loop")
    of_network, of_loop = (default.working_mib / each.working_mib for each in (network, loop))
    of_peak = default.peak_mib / loop.peak_mib
    return (
        f"fuse-dataset: {default.ratio:.2f} times as fast as the plain loop (target {SPEED:g} at 480 x 640), "
        f"{of_loop:.2f} of its working memory and {of_network:.2f} of the plain network's alone "
        f"(target {MEMORY:g} at 768 x 1024), {of_peak:.2f} of the loop's peak with the loaded program, "
        f"PSNR {default.psnr:.1f} dB (target {ACCURACY:g})"
    )
