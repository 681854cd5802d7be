"""``emma-tasks medical``: what fusing two scans of one head keeps of each (Table 5 of the paper).

Imports stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import UsageError
from emma_core.options import (
    Device,
    DryRun,
    FusedFolders,
    Precision,
    Root,
    Runs,
    SayIfFlat,
    SplitFile,
    finish,
    named_folders,
    progress_bar,
    refuse_same,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.fusers import Fuser
    from emma_core.pairs import PairSet
    from medical.data import OwnScans, Ready
    from medical.run import MedicalTable, Outcome

MriFolder = Annotated[Path | None, typer.Option("--mri", help="Instead of --root: images, DICOM files or volumes.")]
OtherFolder = Annotated[Path | None, typer.Option("--other", help="The scans that belong to --mri, named alike.")]
Modality = Annotated[
    str | None, typer.Option(help="Of the other scans: CT, PET, SPECT or a name; with --root, only this part.")
]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="What to call your own scans; else MRI-MODALITY.")]
Method = Annotated[str, typer.Option(help="How to fuse: EMMA, laplacian, ... (see: datasets --methods).")]
Weights = Annotated[Path | None, typer.Option(help="Of EMMA, instead of the shipped ones, say fine-tuned on scans.")]
Range = Annotated[str, typer.Option("--range", help="sigmoid, or stretch as the authors' test code does.")]
RowName = Annotated[
    str | None, typer.Option("--name", help="What to call the row that is fused now; else as the method.")
]
AllMetrics = Annotated[bool, typer.Option("--all-metrics", help="Add SF, SCD, CC and SSIM.")]
OtherWindow = Annotated[
    str | None, typer.Option("--window", help="CENTRE,WIDTH to show the other scans in, if DICOM or NIfTI.")
]
MriWindow = Annotated[str | None, typer.Option(help="CENTRE,WIDTH to show the MRI in.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Fuse anew instead of continuing.")]

SAID_OF_SOURCES = ("Detail MRI", "Detail other")
"""Columns in which the terminal compares with each scan alone; the report has all."""


def medical(
    root: Root = None,
    mri: MriFolder = None,
    other: OtherFolder = None,
    modality: Modality = None,
    dataset: DatasetName = None,
    method: Method = "EMMA",
    weights: Weights = None,
    output_range: Range = "sigmoid",
    precision: Precision = "auto",
    name: RowName = None,
    fused_dir: FusedFolders = None,
    all_metrics: AllMetrics = False,
    window: OtherWindow = None,
    mri_window: MriWindow = None,
    split_file: SplitFile = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Fuse MRI with CT, PET or SPECT by EMMA or another method, and score it beside each scan alone, mean and maximum.

    Whatever was fused of the same pairs before is scored too: by this command and another --method, or, of the Harvard
    set, by fuse-dataset. A stopped run goes on.

    Example: emma-tasks medical --root ~/data/Harvard
    """
    from emma_core.fuse_dataset import fused_folder
    from emma_core.fusers import fusion_method, load_fuser
    from emma_core.results import NAIVE_ROWS
    from emma_core.rows import refuse_fixed_name, with_foreign
    from emma_core.text import is_plain_name

    if fusion_method(method).name in NAIVE_ROWS:
        raise UsageError(f"--method {method}: every medical table has the rows {' and '.join(NAIVE_ROWS)} already")
    name = name or fusion_method(method).name
    if not is_plain_name(name):
        raise UsageError(f"--name {name!r}: expected a name without folders")
    refuse_fixed_name("--name", name)
    own = _own_scans(mri, other, modality, dataset, (mri_window, window))
    foreign = named_folders("--fused-dir", fused_dir)
    for row, _ in foreign:
        refuse_fixed_name("--fused-dir", row)
    fuser = load_fuser(method, weights=weights, device=device, precision=precision, output_range=output_range)
    if dry_run and own is not None and own.hold_scans:
        typer.echo(f"Would convert {' and '.join(map(str, own.folders.values()))} into {own.converted(runs)}, and fuse")
        return
    ready = _find(root, own, modality, split_file, runs)
    with_foreign((), ready.pairs, foreign)  # a folder that is not there is told before the work, not after it
    if dry_run:
        _foretell(ready.pairs, fuser.method, fused_folder(runs, ready.pairs.dataset, name), foreign)
        return
    outcome = _fuse_and_score(ready, fuser, name, foreign, runs, overwrite=overwrite, all_metrics=all_metrics)
    _print(outcome.tables, name)
    finish(ready.faults + outcome.faults)


def demo(data: Path, runs: Path) -> None:
    """Do this task's part of ``emma-tasks demo``: the table of the rendered heads."""
    medical(data / "Harvard", runs=runs)


def _own_scans(
    mri: Path | None,
    other: Path | None,
    modality: str | None,
    dataset: str | None,
    windows: tuple[str | None, str | None],
) -> OwnScans | None:
    """Gather what describes two folders, or return None where nothing does."""
    from medical.data import MODALITIES, OwnScans
    from medical.scans import parse_window

    if mri is None and other is None:
        if dataset or any(windows):
            raise UsageError("--dataset, --window and --mri-window go with --mri DIR --other DIR")
        return None
    if mri is None or other is None or not modality:
        raise UsageError("--mri DIR, --other DIR and --modality CT|PET|SPECT|NAME go together")
    refuse_same({"--mri": mri, "--other": other})
    modality = {known.lower(): known for known in MODALITIES}.get(modality.lower(), modality)
    return OwnScans(
        dataset or f"MRI-{modality}",
        modality,
        folders={"MRI": mri, "other": other},
        windows={"MRI": parse_window("--mri-window", windows[0]), "other": parse_window("--window", windows[1])},
    )


def _find(root: Path | None, own: OwnScans | None, modality: str | None, split_file: Path | None, runs: Path) -> Ready:
    from medical.data import harvard_pairs, own_pairs

    if root is not None and own is None:
        return harvard_pairs(root, modality, split_file)
    if root is None and own is not None:
        with progress_bar("Reading scans", None) as advance:
            return own_pairs(own, runs, split_file, on_file=advance)
    raise UsageError("Give either --root DIR, or --mri DIR --other DIR --modality CT|PET|SPECT|NAME")


def _foretell(pairs: PairSet, method: str, folder: Path, foreign: Sequence[tuple[str, Path]]) -> None:
    rows = ", ".join(name for name, _ in foreign)
    counts = ", ".join(f"{part} {sum(pair.split == part for pair in pairs.pairs)}" for part in pairs.parts)
    typer.echo(
        f"Would fuse {len(pairs.pairs)} pairs of {pairs.dataset} ({counts}) by {method} into {folder} and score them "
        f"beside each scan alone, mean, max{', ' * bool(rows)}{rows} and what was fused before"
    )
    finish(pairs.faults)


def _fuse_and_score(
    ready: Ready,
    fuser: Fuser,
    name: str,
    foreign: Sequence[tuple[str, Path]],
    runs: Path,
    *,
    overwrite: bool,
    all_metrics: bool,
) -> Outcome:
    from emma_core.fuse_dataset import fuse_dataset, fused_folder
    from emma_core.rows import fused_rows, narrow_note, with_foreign
    from medical.run import evaluate_medical

    pairs = ready.pairs
    folder = fused_folder(runs, pairs.dataset, name)
    flat = SayIfFlat()
    with progress_bar(f"{pairs.dataset} by {fuser.method}", len(pairs.pairs)) as advance:
        fuse_dataset(pairs, fuser, folder, overwrite=overwrite, on_pair=lambda _: advance(), on_source=flat)
    flat.say_of_others()
    rows = with_foreign(fused_rows(pairs, runs, naive=False), pairs, foreign)
    with progress_bar("Scoring", len(pairs.pairs)) as advance:
        return evaluate_medical(
            pairs,
            rows,
            runs,
            shown=name,
            all_metrics=all_metrics,
            notes=(*ready.notes, *narrow_note(pairs)),
            device=str(fuser.device),
            on_pair=lambda _: advance(),
        )


def _print(tables: Sequence[MedicalTable], name: str) -> None:
    """Print every table, and of the widest what the row fused now gains and loses."""
    from emma_core.report.console import print_table
    from emma_core.report.tables import table_of
    from emma_core.report.words import sentences

    *parts, last = (table_of(table.results) for table in tables)
    for part in parts:  # what is said of all of them is said once
        print_table(replace(part, notes=tuple(note for note in part.notes if note not in last.notes)))
    print_table(last)
    ours = [each for each in tables[-1].comparisons if each.row == name]
    for line in sentences([each for each in ours if each.against == "max" or each.column in SAID_OF_SOURCES]):
        typer.echo(line)
    typer.echo("A page of all tables, with maps of what survives of each scan: emma-tasks report")
