"""What is said under a table: the notes of its results, and what a reader would otherwise take for granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emma_core.errors import ManifestError
from emma_core.manifest import made_by, read_manifest, unusual
from emma_core.seen import former_note
from emma_core.text import counted, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emma_core.report.parts import TableRow
    from emma_core.results import Result

TRAININGS = "Intervals are over images, for these trainings; other trainings of a row differ by its deviation."

_NEWER = ("images_sha256", "fused", "precision")  # of a result's source, which earlier versions did not write


def notes_of(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Gather the notes of the results, and say what their rows do not share: seeds, images."""
    results = [result for row in rows for result in row.results]
    notes = [plain(note) for result in results for note in result.notes]
    most = max(result.count for result in results)
    notes += _on_seeds(rows)
    for row in rows:
        notes += [note for result in row.results for note in former_note(row.name, result.source)]
        notes += [_on_settings(result) for result in row.results if unusual(result.source)]
        if not _same_images(row.results):
            notes.append(f"{row.name}: its seeds were not run on the same input images.")
        counts = [result.count for result in row.results if result.count != most]
        notes += [f"{row.name}: over {counted(count, 'image')}." for count in counts]
    return tuple(dict.fromkeys(notes))


def fused_since(rows: Sequence[TableRow], runs: Path) -> tuple[str, ...]:
    """Name the rows whose images below a folder of runs are no longer those that were measured.

    A manifest grows when pairs are added, so it is the method, its weights and its settings that are compared.
    """
    notes = []
    for row in rows:
        fused = [(_place(result), made_by(result.source)) for result in row.results if "method" in result.source]
        makers = {place: _maker(runs / "fused" / place) for place, _ in fused}
        if any(makers[place] and makers[place] != maker for place, maker in fused):
            notes.append(f"{row.name}: its images were fused again since, by another method, weights or settings.")
    return tuple(notes)


def _on_seeds(rows: Sequence[TableRow]) -> list[str]:
    """Say over how many seeds a row is, and which rows have others than the rest."""
    notes = []
    for count in sorted({len(row.results) for row in rows} - {1}):
        names = ", ".join(row.name for row in rows if len(row.results) == count)
        notes.append(f"{names}: mean and standard deviation over {count} seeds.")
    if notes:
        notes.append(TRAININGS)
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


def _on_settings(result: Result) -> str:
    """Say which settings made other images than the method's usual ones."""
    settings = ", ".join(f"{key} {value}" for key, value in unusual(result.source).items())
    return plain(f"{result.row}: fused with {settings}.")


def _same_images(results: Sequence[Result]) -> bool:
    """Tell whether runs of a row saw the same images: by a hash of them where all have it, else by their origin."""
    hashes = [result.source.get("images_sha256") for result in results]
    if all(isinstance(each, str) for each in hashes):
        return len(set(hashes)) == 1
    origins = [{key: value for key, value in each.source.items() if key not in _NEWER} for each in results]
    return all(origin == origins[0] for origin in origins)


def _place(result: Result) -> str:
    """Return the folder that a row was read from, below that of all fused images.

    A task may call both the data set and the row otherwise. Results of earlier versions do not name the folder.
    """
    place = result.source.get("fused")
    return place if isinstance(place, str) else f"{result.dataset}/{result.row}"


def _maker(folder: Path) -> tuple[Any, Any, dict[str, Any]] | None:
    """Return what the images in a folder are made by now; None where there are none that could have been measured."""
    try:
        return made_by(read_manifest(folder).settings)
    except ManifestError:
        return None
