"""An example task: do the warmest spots of a scene stand out in each image?"""

from pathlib import Path
from typing import Annotated

import typer

from emma_core.datasets import dataset_spec
from emma_core.pairs import find_pairs
from emma_core.results import Column, Result, result_folder, write_result

CONTRAST = Column("contrast", "grey levels", title="hottest 1 % against the rest")


def command(
    name: Annotated[str, typer.Argument(help="Data set, as for fuse-dataset.")],
    root: Annotated[Path, typer.Option(help="Folder that holds the data set.")],
    runs: Annotated[Path, typer.Option(help="Folder in which everything is kept.")] = Path("runs"),
) -> None:
    """Measure how far the hottest 1 % of the infrared image stand out in IR, VI and every fused image.

    Example: emma-tasks hotspots MSRS --root ~/data/MSRS
    """
    from emma_core.rows import fused_rows  # heavy imports wait until the command runs

    pairs = find_pairs(dataset_spec(name), root)
    rows = {
        pairs.spec.infrared_label: {pair.key: pair.infrared for pair in pairs.pairs},
        pairs.spec.visible_label: {pair.key: pair.visible for pair in pairs.pairs},
        **{row.name: row.files for row in fused_rows(pairs, runs)},
    }
    for row, files in rows.items():
        contrasts = [_contrast(pair.infrared, files[pair.key]) for pair in pairs.pairs]
        value = sum(contrasts) / len(contrasts)
        result = Result(
            task="hotspots",
            title="Hot spots",
            dataset=pairs.dataset,
            split=pairs.label,
            split_hash=pairs.hash,
            count=len(contrasts),
            row=row,
            columns=(CONTRAST,),
            values={CONTRAST.name: value},
        )
        write_result(result_folder(runs, "hotspots", pairs.dataset, pairs.label, row), result)
        typer.echo(f"{row}: {value:.1f} grey levels")


def _contrast(infrared: Path, image: Path) -> float:
    import numpy as np

    from emma_core.images import read_grey

    heat, grey = read_grey(infrared), read_grey(image)
    hot = heat >= np.quantile(heat, 0.99)
    return 255 * float(grey[hot].mean() - grey[~hot].mean()) if not hot.all() else 0.0
