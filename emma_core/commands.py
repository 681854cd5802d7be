"""The core commands. Each reads its options, calls the library, and prints what a person wants to know.

Imports stand inside the functions: ``emma-tasks --help`` loads neither torch nor any other heavy library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.benchmark_commands import benchmark
from emma_core.errors import DataError, EmmaError, UsageError
from emma_core.options import (
    Device,
    DryRun,
    FusedFolders,
    InfraredFolder,
    Precision,
    Root,
    Runs,
    SayIfFlat,
    SplitFile,
    SplitName,
    VisibleFolder,
    find_dataset,
    finish,
    named_folders,
    progress_bar,
    refuse_same,
)
from emma_core.plugins import DEMOS, plugins
from emma_core.reproduce_commands import reproduce
from emma_core.text import counted

if TYPE_CHECKING:
    from emma_core.fuse import Colour
    from emma_core.fuse_dataset import ColourSetting
    from emma_core.fusers import Fuser
    from emma_core.pairs import PairSet

Command = Callable[..., None]

COLOURS: dict[str, Colour] = {"vis": "visible", "ir": "infrared", "none": "none"}
"""Choices of ``fuse --colour``, and the side each means."""

Method = Annotated[str, typer.Option(help="How to fuse: EMMA, mean, max, laplacian, ... (see: datasets --methods).")]
Weights = Annotated[
    Path | None, typer.Option(help="Of EMMA, instead of the shipped ones: .safetensors, or the authors' EMMA.pth.")
]
Range = Annotated[str, typer.Option("--range", help="sigmoid, or stretch to each image's own minimum and maximum.")]
RowName = Annotated[str | None, typer.Option("--name", help="What to call the row; by default the method.")]
Grey = Annotated[bool, typer.Option("--grey", help="Write luma only, without the colours of the visible image.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Tile = Annotated[
    int | None, typer.Option(min=0, help="Side of tiles in pixels, 0 for none; by itself above 2.5 megapixels.")
]


def fuse(
    infrared: Annotated[Path, typer.Option("--ir", help="Infrared image, or a folder of them.")],
    visible: Annotated[Path, typer.Option("--vis", help="Visible image, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Fused PNG, or the folder for them.")],
    method: Method = "EMMA",
    weights: Weights = None,
    colour: Annotated[str, typer.Option(help="Whose colours the result takes: vis, ir (say, of a PET), none.")] = "vis",
    tile: Tile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    output_range: Range = "sigmoid",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Fuse a pair of images, or two folders of equally named images.

    Example: emma-tasks fuse --ir ir.png --vis vis.png --out fused.png --method laplacian
    """
    from emma_core.datasets import folder_spec
    from emma_core.fusers import load_fuser
    from emma_core.pairs import find_pairs

    for path in (infrared, visible):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    refuse_same({"--ir": infrared, "--vis": visible})
    if infrared.is_dir() != visible.is_dir():
        raise UsageError("--ir and --vis must be two images or two folders; one is a folder, the other is not")
    if colour not in COLOURS:
        raise UsageError(f"--colour {colour!r}: expected {', '.join(COLOURS)}")
    if not infrared.is_dir():
        _refuse_out(out, {infrared, visible}, overwrite=overwrite)
    fuser = load_fuser(method, weights=weights, device=device, precision=precision, output_range=output_range)
    side = COLOURS[colour]
    if infrared.is_dir():
        pairs = find_pairs(folder_spec("pairs", infrared, visible, split=""), infrared.resolve().parent)
        setting: ColourSetting = "source" if side == "visible" else side
        _fuse_into(out, pairs, fuser, setting, tile=tile, limit=None, overwrite=overwrite, dry_run=dry_run)
        return
    _fuse_one(out, infrared, visible, fuser, side, tile=tile, dry_run=dry_run)


def fuse_dataset(
    dataset: Annotated[
        str, typer.Argument(metavar="NAME", help="MSRS, M3FD, RoadScene, TNO, Harvard; any name with --ir and --vis.")
    ],
    root: Root = None,
    infrared: InfraredFolder = None,
    visible: VisibleFolder = None,
    method: Method = "EMMA",
    name: RowName = None,
    weights: Weights = None,
    split: SplitName = None,
    split_file: SplitFile = None,
    limit: Limit = None,
    grey: Grey = False,
    tile: Tile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    output_range: Range = "sigmoid",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network for each size: a minute or two, for many images.")
    ] = False,
    runs: Runs = Path("runs"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Fuse anew instead of continuing; images of other settings go.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Fuse a data set into runs/fused/NAME/METHOD, with a manifest. Continues where a stopped run was.

    Example: emma-tasks fuse-dataset MSRS --root ~/data/MSRS --method max
    """
    from emma_core.fuse_dataset import fused_folder
    from emma_core.fusers import fusion_method, load_fuser
    from emma_core.rows import refuse_fixed_name
    from emma_core.text import is_plain_name

    if name is not None and not is_plain_name(name):
        raise UsageError(f"--name {name!r}: expected a name without folders")
    refuse_fixed_name("--name", name or "", fusion_method(method).name)
    pairs = find_dataset(dataset, root, infrared, visible, split, split_file)
    fuser = load_fuser(
        method, weights=weights, device=device, precision=precision, output_range=output_range, compiled=compiled
    )
    folder = fused_folder(runs, pairs.dataset, name or fuser.method)
    colour: ColourSetting = "none" if grey else "source"
    _fuse_into(folder, pairs, fuser, colour, tile=tile, limit=limit, overwrite=overwrite, dry_run=dry_run)


def evaluate(
    name: Annotated[str, typer.Argument(help="Data set, as for fuse-dataset.")],
    root: Root = None,
    infrared: InfraredFolder = None,
    visible: VisibleFolder = None,
    fused_dir: FusedFolders = None,
    split: SplitName = None,
    split_file: SplitFile = None,
    limit: Limit = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Score fused images by EN, SD, SF, AG, MI, VIF, Qabf, SCD, CC and SSIM, beside IR, VI, mean and max.

    Example: emma-tasks evaluate MSRS --root ~/data/MSRS
    """
    from emma_core.comparisons import in_short
    from emma_core.evaluate import evaluate_dataset, row_labels
    from emma_core.fuse_dataset import fused_folder
    from emma_core.report.console import print_table
    from emma_core.report.tables import table_of
    from emma_core.rows import fused_rows, with_foreign

    pairs = find_dataset(name, root, infrared, visible, split, split_file).first(limit)
    folders = named_folders("--fused-dir", fused_dir)
    rows = with_foreign(fused_rows(pairs, runs, naive=False, needed=not folders), pairs, folders)
    if dry_run:
        typer.echo(
            f"Would score {len(pairs.pairs)} pairs of {pairs.dataset}: {', '.join(row_labels(pairs.spec, rows))}"
        )
        return
    with progress_bar("Scoring", len(pairs.pairs)) as advance:
        outcome = evaluate_dataset(pairs, rows, runs, device=device, on_pair=lambda _: advance())
    print_table(table_of(outcome.results))
    for line in in_short(outcome.differences):
        typer.echo(line)
    if not rows:
        place = fused_folder(runs, pairs.dataset, "")
        command = f"emma-tasks fuse-dataset {name} ..."
        typer.echo(f"No images by other methods than mean and max under {place}; make them with: {command}", err=True)
    typer.echo(f"Written: {outcome.folder}/*/result.json and per_image.csv. A page of all results: emma-tasks report")
    finish(outcome.faults)


def datasets(
    name: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    root: Annotated[Path | None, typer.Option(help="A folder to look in, for ROOT/NAME.")] = None,
    methods: Annotated[bool, typer.Option("--methods", help="List the fusion methods instead.")] = False,
) -> None:
    """List the data sets that are known: what they are, where to get them, their terms, and what was found.

    Example: emma-tasks datasets --root ~/data
    """
    from emma_core.datasets import DATASETS, dataset_spec

    if methods:
        _list_methods()
        return
    for spec in [dataset_spec(name)] if name else DATASETS.values():
        typer.echo(f"{spec.name}: {spec.title}")
        typer.echo(f"  get it    {spec.source}  ({spec.citation})")
        typer.echo(f"  licence   {spec.licence}")
        for part in spec.splits:
            layouts = " or ".join(f"{infrared} + {visible}" for infrared, visible in part.folders)
            typer.echo(f"  layout    {part.name}: {layouts}")
        if spec.sample:
            typer.echo(f"  stand-in  emma-tasks sample-data DIR --datasets {spec.name}")
        if root is not None:
            typer.echo(f"  found     {_what_is_there(spec.name, root)}")


def sample_data(
    out: Annotated[Path, typer.Argument(help="Folder to write to; each data set gets a folder in it.")],
    names: Annotated[str, typer.Option("--datasets", help="Which, separated by commas.")] = "M3FD,MSRS,Harvard",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each data set.")] = 12,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """Render labelled sample scenes in the layouts of M3FD, MSRS and Harvard. No download, no licence to mind.

    Example: emma-tasks sample-data samples --datasets MSRS --pairs 20
    """
    from emma_core.samples import write_samples

    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if dry_run:
        typer.echo(f"Would render {pairs} pairs each of {', '.join(chosen)} into {out}")
        return
    with progress_bar("Rendering", None) as advance:
        folders = write_samples(out, chosen, pairs, seed, progress=lambda *_: advance())
    for folder in folders:
        typer.echo(str(folder))


def report(
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Write one page of all tables and fused images under runs/, and the tables as Markdown, CSV and LaTeX.

    Example: emma-tasks report
    """
    from emma_core.report.page import write_report
    from emma_core.results import find_results

    if dry_run:
        typer.echo(f"Would write {runs / 'report'} from {len(find_results(runs))} results")
        return
    paths = write_report(runs)
    for warning in paths.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    typer.echo(f"Report: {paths.html}")


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the sample data and the runs.")] = Path("demo"),
    pairs: Annotated[int, typer.Option(min=12, help="Pairs of each road data set.")] = 48,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in the browser.")] = False,
) -> None:
    """Everything once, without data or GPU: render samples, fuse them, score them, run the tasks, write the report.

    Example: emma-tasks demo
    """
    data, runs = out / "data", out / "runs"
    sample_data(data, "Harvard", 12)
    sample_data(data, "M3FD,MSRS", pairs)
    for name in ("M3FD", "MSRS"):
        fuse_dataset(name, data / name, runs=runs)
        evaluate(name, data / name, runs=runs)
    for entry in plugins(DEMOS):
        typer.echo(f"{entry.name}:")
        entry.load()(data, runs)
    report(runs)
    if show:
        typer.launch(str((runs / "report" / "index.html").resolve()))


def export(
    out: Annotated[Path, typer.Argument(help="The file: NAME.onnx or NAME.pt2.")],
    weights: Weights = None,
    form: Annotated[str, typer.Option("--format", help="onnx, or exported-program for torch.export.load.")] = "onnx",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Write EMMA's network for other runtimes, with free height and width; kept only if it answers like the network.

    Example: emma-tasks export emma.onnx
    """
    from emma_core.export import SUFFIXES, export_fuser
    from emma_core.fusers import SHIPPED_WEIGHTS

    if form not in SUFFIXES:
        raise UsageError(f"--format {form!r}: expected {' or '.join(SUFFIXES)}")
    if out.suffix != SUFFIXES[form]:
        kinds = ", ".join(f"{suffix} for --format {name}" for name, suffix in SUFFIXES.items())
        raise UsageError(f"{out} for --format {form}: expected a name that ends in {kinds}")
    _refuse_present(out, overwrite)
    if dry_run:
        typer.echo(f"Would export {weights or 'the shipped weights'} as {form} into {out}")
        return
    difference = export_fuser(weights or SHIPPED_WEIGHTS, out, form)
    sides = "sides must be multiples of 8 pixels, at least 16"
    typer.echo(f"{out}: differs from the network by at most {difference:.1e}; {sides}")


COMMANDS: dict[str, Command] = {
    "demo": demo,
    "datasets": datasets,
    "sample-data": sample_data,
    "fuse": fuse,
    "fuse-dataset": fuse_dataset,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "report": report,
    "export": export,
    "benchmark": benchmark,
}
"""Command line name to function, in the order of ``--help``."""


def _refuse_present(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; replace it with --overwrite")


def _refuse_out(out: Path, sources: set[Path], *, overwrite: bool) -> None:
    """Refuse a place for a fused image before time is spent on it."""
    if out.resolve() in {source.resolve() for source in sources}:
        raise UsageError(f"{out} is one of the source images; choose another file for the fused one")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: fused images are written as PNG; expected a name that ends in .png")
    _refuse_present(out, overwrite)


def _fuse_one(
    out: Path, infrared: Path, visible: Path, fuser: Fuser, colour: Colour, *, tile: int | None, dry_run: bool
) -> None:
    from emma_core.fuse import fuse_pair
    from emma_core.images import read_image, write_image

    images = read_image(infrared), read_image(visible)
    flat = SayIfFlat()
    for path, image in zip((infrared, visible), images, strict=True):
        flat(path, image)
    flat.say_of_others()
    if dry_run:
        typer.echo(f"Would fuse {infrared} and {visible} by {fuser.method} into {out}")
        return
    write_image(out, fuse_pair(*images, fuser, colour_from=colour, tile=tile))
    typer.echo(f"{out}: fused by {fuser.method}")


def _fuse_into(
    folder: Path,
    pairs: PairSet,
    fuser: Fuser,
    colour: ColourSetting,
    *,
    tile: int | None,
    limit: int | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    from emma_core.fuse_dataset import fuse_dataset as run
    from emma_core.fuse_dataset import pairs_to_fuse

    count = len(pairs.pairs[:limit])
    if dry_run:
        chosen = pairs.first(limit)
        left = pairs_to_fuse(chosen, fuser, folder, colour=colour, tile=tile, overwrite=overwrite)
        there = f"; {count - left} there already, by its record" if left < count else ""
        typer.echo(f"Would fuse {counted(left, 'pair')} of {pairs.dataset} by {fuser.method} into {folder}{there}")
        finish(pairs.faults)
        return
    flat = SayIfFlat()
    with progress_bar(f"{pairs.dataset} by {fuser.method}", count) as advance:
        summary = run(
            pairs,
            fuser,
            folder,
            colour=colour,
            tile=tile,
            limit=limit,
            overwrite=overwrite,
            on_pair=lambda _: advance(),
            on_source=flat,
        )
    flat.say_of_others()
    kept = f", {summary.kept} were there already" if summary.kept else ""
    typer.echo(f"{summary.folder}: {summary.fused} fused{kept}")
    finish(summary.faults)


def _what_is_there(name: str, root: Path) -> str:
    from emma_core.datasets import dataset_spec
    from emma_core.pairs import find_pairs

    places = [root / name] + [root] * (root.resolve().name.lower() == name.lower())
    for place in places:
        with contextlib.suppress(EmmaError):
            found = find_pairs(dataset_spec(name), place)
            faults = f", {len(found.faults)} unusable" if found.faults else ""
            return f"{len(found.pairs)} pairs in {place}{faults}"
    return f"nothing in {root / name}"


def _list_methods() -> None:
    from emma_core.fusers import METHODS

    for method in METHODS.values():
        weights = "  (takes --weights)" if method.rule is None else ""
        typer.echo(f"{method.name:<10} {method.title} - {method.reference}{weights}")
