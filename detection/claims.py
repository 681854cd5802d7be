"""What a run is, written into its folder before it begins; a folder that holds anything else is refused, not mixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from detection.recipes import DetectorRecipe  # noqa: TC001 - read_toml looks at the types of the fields
from emma_core.config import read_toml, to_dict
from emma_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "config.toml"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what one run ends with.

    Attributes:
        dataset: name of the data set.
        row: kind of input.
        seed: of everything random.
        images: SHA-256 over the content of the row's images.
        split: hash of what is trained and tested on.
        labels: hash of the boxes.
        sources: SHA-256 over the content of the source images, whatever kind of input a row is.
        architecture: SHA-256 of the network's description; ``recipe.model`` may be a file that changes.
        start: SHA-256 of the weights to begin with, or empty.
        recipe: how to train.
        precision: in which the network computes meanwhile.
    """

    dataset: str
    row: str
    seed: int
    images: str
    split: str
    labels: str
    sources: str
    architecture: str
    start: str
    recipe: DetectorRecipe
    precision: Literal["fp32", "bf16"] = "fp32"


def configs_in(folder: Path) -> dict[Path, RunConfig]:
    """Read what the runs in a folder of rows are, by folder."""
    return {path.parent: read_toml(path, RunConfig) for path in sorted(folder.glob(f"*/seed*/{CONFIG}"))}


def refuse_others(folder: Path, wanted: Mapping[Path, RunConfig]) -> dict[Path, RunConfig]:
    """Make sure that what is in a folder of rows is what is wanted there, or may stand in one table with it.

    Args:
        folder: of all rows.
        wanted: what runs are to be, by folder.

    Returns:
        What the runs that are there are, by folder.

    Raises:
        UsageError: one is not what is wanted, or differs from that in more than row, seed and images.
    """
    found = configs_in(folder)
    rule = next(iter(wanted.values()))
    for place, config in found.items():
        expected = wanted.get(place) or replace(rule, row=config.row, seed=config.seed, images=config.images)
        refuse_difference(place, _flat(config), _flat(expected))
    return found


def refuse_difference(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a folder whose settings are others than those that are wanted.

    Raises:
        UsageError: a setting differs; the line names it.
    """
    for name, new in wanted.items():
        if found.get(name) != new:
            old, now = (str(value)[:20] or "none" for value in (found.get(name), new))
            raise UsageError(
                f"{folder}: holds a run of other settings ({name}: {old}, now {now}); "
                "remove it, or choose another folder with --runs"
            )


def _flat(config: RunConfig) -> dict[str, Any]:
    values = to_dict(config)
    recipe: dict[str, Any] = values.pop("recipe")
    return values | recipe
