"""The record beside a folder of fused images: what made them, from what, and what failed.

``<folder>/manifest.json`` is written when a run ends. While it runs, every finished image is one line of
``<folder>/journal.jsonl``, so a killed run loses nothing and the cost of an image does not grow with their
number. The manifest holds no time stamp: a run that was killed and continued leaves the same bytes as one that
was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from emma_core.errors import DAMAGE, BusyError, ManifestError
from emma_core.files import read_bytes, read_text
from emma_core.images import remove_temporary_files, write_atomic
from emma_core.pairs import IMAGE_SUFFIXES, Fault, join_key, split_hash
from emma_core.text import is_plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

SCHEMA = 1
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
USUAL = {"range": "sigmoid", "colour": "source", "tile": None}
"""Settings that decide an image, as they are where nobody asked for another."""


@dataclass(frozen=True, slots=True)
class Row:
    """One fused image.

    Attributes:
        split: part of the data set.
        id: stem of its file name; the image is ``<split>/<id>.png``.
        infrared: source file, relative to the root of the data set (absolute if it lies outside).
        visible: likewise.
        infrared_sha256: of the source file.
        visible_sha256: likewise.
        sha256: of the fused file.
    """

    split: str
    id: str
    infrared: str
    visible: str
    infrared_sha256: str
    visible_sha256: str
    sha256: str

    def __post_init__(self) -> None:
        """Refuse what is no text, and names that would lead out of the folder: it may come from somebody else."""
        if any("\0" in text for text in astuple(self)):
            raise ValueError("text with a null character")
        if not is_plain_name(self.id) or not (self.split == "" or is_plain_name(self.split)):
            raise ValueError(f"not a plain name: {self.key!r}")

    @property
    def key(self) -> str:
        """``split/id``."""
        return join_key(self.split, self.id)

    @property
    def file(self) -> str:
        """The fused image, relative to the folder of the manifest."""
        return f"{self.key}.png"

    def made_from(self, infrared: Path, visible: Path) -> bool:
        """Tell whether the image was made from two files as they are now."""
        return (file_sha256(infrared), file_sha256(visible)) == (self.infrared_sha256, self.visible_sha256)


_OF_A_ROW = {each.name for each in fields(Row)}


@dataclass
class Manifest:
    """What a folder of fused images is.

    Attributes:
        dataset: name of the data set.
        root: folder the sources were read from.
        settings: everything else that decides the pixels: method, checkpoint, precision, range, colour, tool.
        rows: by ``split/id``.
        failures: what could not be made when it was last tried, by ``split/id``.
    """

    dataset: str
    root: str
    settings: Mapping[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    failures: dict[str, Fault] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Name of the fusion method."""
        return str(self.settings["method"])

    def identity(self) -> dict[str, Any]:
        """Return what all images of a folder share; a run that differs in it is refused."""
        return {"dataset": self.dataset, "root": self.root, **self.settings}

    def pieces(self) -> Iterator[str]:
        """Spell ``manifest.json``, a row a line, in an order that does not depend on how the run went.

        Piece by piece, because the text of 100,000 rows is as large as all else that is known of them.
        """
        keys: dict[str, list[str]] = {}
        for row in self.rows.values():
            keys.setdefault(row.split, []).append(row.key)
        head = {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "root": self.root,
            "settings": dict(self.settings),
            "splits": {split: {"count": len(keys[split]), "hash": split_hash(keys[split])} for split in sorted(keys)},
        }
        yield _json(head, indent=1).removesuffix("\n}")
        for name, records in (("rows", self.rows), ("failures", self.failures)):
            yield f',\n "{name}": ['
            for number, key in enumerate(sorted(records)):
                yield f"{',' if number else ''}\n  {_json(asdict(records[key]))}"
            yield "\n ]"
        yield "\n}\n"


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of a folder of fused images.

    Raises:
        ManifestError: it is missing, damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_text(path), object_hook=_row_if_one)
        if content["schema"] != SCHEMA:
            raise ManifestError(
                f"{path}: schema {content['schema']}, this version reads {SCHEMA}; delete the folder and fuse again"
            )
        rows = {row.key: row for row in content["rows"]}
        failures = [Fault(**fault) for fault in content["failures"]]
        manifest = Manifest(content["dataset"], content["root"], dict(content["settings"]))
        "".join([manifest.dataset, manifest.root, manifest.method, *map(str, failures)])  # refuses what is no text
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; make it with: emma-tasks fuse-dataset") from None
    except DAMAGE as error:
        raise ManifestError(
            f"{path}: damaged, or not of this tool ({type(error).__name__}); delete the folder and fuse again"
        ) from None
    manifest.rows = rows
    manifest.failures = {fault.key: fault for fault in failures}
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, whole or not at all, and drop the journal it replaces."""
    write_atomic(folder / MANIFEST, (piece.encode() for piece in manifest.pieces()))
    (folder / JOURNAL).unlink(missing_ok=True)


class Journal:
    """The lines that a running process appends, one a finished image; the first names the settings."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        _drop_half_line(path)
        new = not path.exists() or path.stat().st_size == 0
        self._stream = path.open("a", encoding="utf-8")
        if new:
            self._append(manifest.identity())

    def add(self, row: Row) -> None:
        """Record a finished image; it is on its way to disk when this returns."""
        self._append(asdict(row))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _append(self, content: Mapping[str, Any]) -> None:
        self._stream.write(_json(content) + "\n")
        self._stream.flush()


def resume_manifest(folder: Path, wanted: Manifest) -> Manifest:
    """Return the record that a run goes on from: what earlier runs of the same identity left, or an empty one.

    Args:
        folder: of the fused images.
        wanted: data set, root and settings of the run; its rows and failures are filled.

    Raises:
        ManifestError: the folder was made of other data or with other settings, or holds images without a record.
    """
    _refuse_links(folder)
    lines = _journal_lines(folder / JOURNAL)
    identities: list[Mapping[str, Any]] = [*lines[:1]]
    if (folder / MANIFEST).exists():
        earlier = read_manifest(folder)
        identities.append(earlier.identity())
        wanted.rows |= earlier.rows
        wanted.failures |= earlier.failures
    elif not lines and _holds_images(folder):
        raise ManifestError(f"{folder}: holds images but no {MANIFEST}; choose another folder")
    wanted.rows |= {row.key: row for row in map(_row, lines[1:]) if row}
    wanted.rows = {key: row for key, row in wanted.rows.items() if (folder / row.file).exists()}
    wanted.failures = {key: fault for key, fault in wanted.failures.items() if key not in wanted.rows}
    _refuse_other(folder, identities, wanted)
    return wanted


def forget(folder: Path) -> None:
    """Remove the record of a folder and the images it lists, so that it can be made anew.

    Raises:
        ManifestError: the folder holds images without a record, or a damaged one: whose they are is not known.
    """
    _refuse_links(folder)
    rows = {row.key: row for row in map(_row, _journal_lines(folder / JOURNAL)[1:]) if row}
    if (folder / MANIFEST).exists():
        rows |= read_manifest(folder).rows
    elif not (folder / JOURNAL).exists() and _holds_images(folder):
        raise ManifestError(f"{folder}: holds images but no {MANIFEST}; choose another folder")
    for row in rows.values():
        (folder / row.file).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)


def sweep(folder: Path, splits: Iterable[str]) -> None:
    """Remove half-written files that a killed process left; call it with the folder locked and known as ours."""
    for place in {folder, *(folder / split for split in splits)}:
        remove_temporary_files(place)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the operating system lets go when the process ends, however it ends.

    Raises:
        BusyError: another process holds it.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"{folder}: another emma-tasks process is writing here; wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def made_by(record: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return whose fused images a record is of, the settings of a manifest or the source of a result.

    Returns:
        The method, the SHA-256 of its weights (None where it has none), and what of the settings is unusual. Versions,
        device and number format do not count: by them images differ in a grey level or two.
    """
    return record.get("method"), record.get("checkpoint_sha256"), unusual(record)


def unusual(record: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of the settings of a manifest, or the source of a result, what makes other images than :data:`USUAL`."""
    return {key: record[key] for key, usual in USUAL.items() if record.get(key, usual) != usual}


def made_from(root: Path, manifest: Manifest) -> bool:
    """Tell whether all images of a record were made from files as they lie below a folder now."""
    return all(row.made_from(root / row.infrared, root / row.visible) for row in manifest.rows.values())


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, or None where there is none that can be read."""
    try:
        return sha256(read_bytes(path))
    except OSError:
        return None


def _json(content: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(content, indent=indent, ensure_ascii=False)


def _refuse_other(folder: Path, identities: Sequence[Mapping[str, Any]], wanted: Manifest) -> None:
    """Refuse a folder of another identity; a data set that was moved, and is otherwise the same, may go on."""
    moved = any(found.get("root") != wanted.root for found in identities) and made_from(Path(wanted.root), wanted)
    for found in identities:
        _refuse_different(folder, {**found, "root": wanted.root} if moved else found, wanted.identity())


def _refuse_different(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if different:
        key = different[0]
        raise ManifestError(
            f"{folder}: was made with other settings ({key}: {found.get(key)!r}, now {wanted.get(key)!r}"
            f"{f', and {len(different) - 1} more' if different[1:] else ''}); "
            "choose another --name or folder, or replace it with --overwrite"
        )


def _refuse_links(folder: Path) -> None:
    """Refuse a part that is a link: images would be written, and removed, wherever it leads."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        links = [entry.path for entry in entries if entry.is_symlink() and entry.is_dir()]
    if links:
        raise ManifestError(f"{links[0]}: is a link to another folder; remove it, or choose another folder")


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))


def _journal_lines(path: Path) -> list[dict[str, Any]]:
    """Parse a journal; a killed process may have left half a line at its end."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in read_text(path, errors="replace").split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                content = json.loads(text)
                if isinstance(content, dict):
                    lines.append(content)
    return lines


def _row_if_one(record: dict[str, Any]) -> dict[str, Any] | Row:
    """Make a row of what has its keys while the file is parsed: as dictionaries 100,000 take twice the memory."""
    return Row(**record) if record.keys() == _OF_A_ROW else record


def _row(line: Mapping[str, Any]) -> Row | None:
    try:
        return Row(**line)
    except (TypeError, ValueError):
        return None


def _drop_half_line(path: Path) -> None:
    """Cut what follows the last line end, so that the next line starts at a line start.

    In place: a kill or a full disk between emptying the file and writing it again would lose the record.
    """
    if path.exists():
        os.truncate(path, read_bytes(path).rfind(b"\n") + 1)
