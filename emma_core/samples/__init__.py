"""Sample data: labelled, seeded scenes in the layouts of M3FD, MSRS and Harvard, for tests, the demo and benchmarks.

Nothing here is a photograph. Street scenes are painted from geometry, temperatures and albedos and seen by two
simulated cameras; head slices come from one map of tissues. Labels are read off the same painting. Each camera
sees things that the other misses, so what fusion is for can be measured on them; absolute figures mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SAMPLE_DATASETS = ("M3FD", "MSRS", "Harvard")
"""The data sets that can be rendered."""


def write_samples(
    out: Path,
    datasets: Sequence[str] = SAMPLE_DATASETS,
    pairs: int = 12,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Render sample data sets.

    Equal arguments give equal bytes, and pair k of a data set is the same whatever ``pairs`` is. Files of the same
    names are replaced, each one whole or not at all; nothing is deleted. A hidden file, ``.sample-data.json``, marks
    the folder as rendered, so that it is never taken for the real data set.

    Args:
        out: folder to write into; each data set gets a folder of its name in it.
        datasets: which ones, by name; case does not matter.
        pairs: image pairs of each data set; of Harvard that many thirds, at least 2, for each of CT, PET and SPECT.
            Every third pair of MSRS goes to its test split. With 6 or more, every class is in either split.
        seed: 0 or more; another one gives other scenes.
        size: height and width in pixels, at least 64 each; by default 240 x 320, and 256 x 256 for Harvard.
        progress: called after every pair with the name of the data set, the pairs done, and those to do.

    Returns:
        The folder of each data set, in the order asked for.

    Raises:
        UsageError: an unknown data set, a number that is out of range, or a folder that holds anything else.
        OSError: a file cannot be written.
    """
    from emma_core.samples.layouts import write_datasets

    return write_datasets(out, datasets, pairs, seed, size, progress)
