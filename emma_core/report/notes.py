"""What is said under a table: the notes of its results, and what a reader would otherwise take for granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emma_core.errors import ManifestError
from emma_core.manifest import read_manifest
from emma_core.report.parts import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emma_core.manifest import Manifest
    from emma_core.report.parts import TableRow
    from emma_core.results import Result


def notes_of(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Gather the notes of the results, and say what their rows do not share: seeds, images."""
    results = [result for row in rows for result in row.results]
    notes = [plain(note) for result in results for note in result.notes]
    most = max(result.count for result in results)
    notes += _on_seeds(rows)
    for row in rows:
        if not _same_images(row.results):
            notes.append(f"{row.name}: its seeds were not run on the same input images.")
        notes += [f"{row.name}: over {result.count} images." for result in row.results if result.count != most]
    return tuple(dict.fromkeys(notes))


def fused_since(rows: Sequence[TableRow], runs: Path) -> tuple[str, ...]:
    """Name the rows whose images below a folder of runs are no longer those that were measured.

    A manifest grows when pairs are added, so it is the method and its weights that are compared.
    """
    notes = []
    for row in rows:
        for folder in {runs / "fused" / result.dataset / result.row for result in row.results}:
            try:
                manifest = read_manifest(folder)
            except ManifestError:
                continue  # nothing is there that could have been measured
            if any(_is_of_others(result.source, manifest) for result in row.results):
                notes.append(f"{row.name}: its images were fused again since, by other weights or another method.")
    return tuple(dict.fromkeys(notes))


def _on_seeds(rows: Sequence[TableRow]) -> list[str]:
    """Say over how many seeds a row is, and which rows have others than the rest."""
    notes = []
    for count in sorted({len(row.results) for row in rows} - {1}):
        names = ", ".join(row.name for row in rows if len(row.results) == count)
        notes.append(f"{names}: mean and standard deviation over {count} seeds.")
    single = [row.name for row in rows if len(row.seeds) == 1]
    if single:
        whose = "" if len(single) == len(rows) else f"{', '.join(single)}: "
        notes.append(f"{whose}{'one' if whose else 'One'} seed: intervals are over images only, not over trainings.")
    groups: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        groups.setdefault(row.seeds, []).append(row.name)
    if len(groups) > 1:
        spelled = "; ".join(f"{', '.join(names)}: {_spelled(seeds)}" for seeds, names in groups.items())
        notes.append(f"Not the same seeds ({spelled}): a difference may be that of the seeds.")
    return notes


def _spelled(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _same_images(results: Sequence[Result]) -> bool:
    """Tell whether runs of a row saw the same images: by a hash of them where all have it, else by their origin."""
    hashes = [result.source.get("images_sha256") for result in results]
    if all(isinstance(each, str) for each in hashes):
        return len(set(hashes)) == 1
    origins = [{key: value for key, value in each.source.items() if key != "images_sha256"} for each in results]
    return all(origin == origins[0] for origin in origins)


def _is_of_others(source: dict[str, Any], manifest: Manifest) -> bool:
    made_by = manifest.method, manifest.settings.get("checkpoint_sha256")
    return "method" in source and (source["method"], source.get("checkpoint_sha256")) != made_by
