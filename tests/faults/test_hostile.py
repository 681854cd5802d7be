"""Input made to do harm: nothing in it is executed, fetched, expanded, or written elsewhere.

Pickles with code are also refused in test_checkpoint.py; names on the page in test_report_page.py and in a browser in
test_report_browser.py.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import emma, random_image, tree, write_pairs, write_released_checkpoint
from damage import watchdog
from PIL import Image

from detection.coco import read_predictions
from detection.label_files import read_coco, read_voc
from detection.scoring import read_conditions
from detection.splits import read_split
from detection.weights import read_weights
from emma_core.checkpoint import load_ufuser
from emma_core.comparisons import read_comparisons
from emma_core.config import UFuserConfig, read_toml
from emma_core.datasets import dataset_spec
from emma_core.errors import CheckpointError, DataError, EmmaError, ManifestError, ResultError
from emma_core.images import write_image
from emma_core.manifest import JOURNAL, MANIFEST, read_manifest
from emma_core.pairs import find_pairs
from emma_core.pictures import read_index
from emma_core.results import Column, Result, read_result, write_result
from emma_core.training_log import read_log
from segmentation.network import load_segmenter

TINY = ("--size", "32", "--epochs", "1", "--model", "yolov5n")

# XML

BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><annotation>&i;</annotation>"
)
CAR = "<name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
"""A box whose class a parser may have to look up."""
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "{}">]><annotation><object>' + CAR.format("&a;") + "</object></annotation>"
FOREIGN = '<!DOCTYPE x SYSTEM "{}"><annotation><object>' + CAR.format("&a;") + "</object></annotation>"


def test_xml_of_extreme_nesting(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>\n" + "<a>" * 50_000 + "</a>" * 50_000 + "</annotation>")
    with watchdog(), pytest.raises(DataError, match=r"a\.xml:2: broken XML \(elements in more than 50 others\)"):
        read_voc(tmp_path / "a.xml", ("Car",))
    (tmp_path / "b.xml").write_text("<annotation>" + "<a></a>" * 50_000 + "</annotation>")
    assert read_voc(tmp_path / "b.xml", ("Car",)).objects == ()


@pytest.mark.parametrize(
    ("text", "elsewhere", "said"),
    [
        (BOMB, "", "refused XML"),
        (OUTSIDE, "Car", "refused XML"),
        (FOREIGN, '<!ENTITY a "Car">', r"broken XML \(undefined entity &a;\)"),
    ],
    ids=["billion laughs", "external entity", "external DTD"],
)
def test_xml_bombs_and_entities(tmp_path, text, elsewhere, said):
    """What they name elsewhere is there, and would make a valid box."""
    (tmp_path / "elsewhere").write_text(elsewhere)
    (tmp_path / "a.xml").write_text(text.replace("{}", (tmp_path / "elsewhere").as_uri()))
    with watchdog(), pytest.raises(DataError, match=rf"a\.xml:1: {said}"):
        read_voc(tmp_path / "a.xml", ("Car",))


@pytest.mark.parametrize(
    ("size", "said"),
    [("1e400", "expected a number"), ("nan", "expected a number"), ("1e300", "no image has"), ("64", "is 32 x 24")],
)
def test_sizes_that_the_image_has_not(tmp_path, size, said):
    root = write_pairs(tmp_path / "M3FD", 3, folders=("Ir", "Vis"))
    (root / "Annotation").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    text = f"<a><size><width>{size}</width><height>24</height></size><object><name>Car</name>{box}</object></a>"
    for name in ("000", "001", "002"):
        (root / "Annotation" / f"{name}.xml").write_text(text)
    done = emma("detect", "M3FD", "--root", root, "--ir", "--split", "thirds", "--runs", tmp_path / "runs", *TINY)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


# Weights


class Payload:
    """What ``pickle`` would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "hacked")


@pytest.mark.parametrize("load", [load_ufuser, read_weights, load_segmenter])
@pytest.mark.parametrize("as_zip", [True, False])
def test_pickles_do_not_run(tmp_path, load, as_zip):
    state = {"weight": torch.zeros(2), "more": Payload(tmp_path / "ran")}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the payload was to work"


def memory_of(code: str, *arguments: Path) -> tuple[int, str]:
    """Run code in a process of its own; return what its memory grew by [bytes], and what it printed."""
    program = f"""
import sys
from pathlib import Path
from emma_core.errors import EmmaError
from emma_core.runtime import memory_mib
{code}
before = memory_mib("VmHWM")
try:
    print(attack(*map(Path, sys.argv[1:])))
except EmmaError as error:
    print(error)
print(round((memory_mib("VmHWM") - before) * 2**20))
"""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.rsplit("\n", 2)[:2]
    return int(grown), said


def test_weights_that_claim_more_than_their_file_holds(tmp_path):
    """One element seen as terabytes, a zip archive that inflates, and a header of absurd length."""
    one = {f"V_en_{scale}.embed.weight": torch.zeros(1).expand(8192, 8192, 8192) for scale in range(1, 5)}
    torch.save(one, tmp_path / "expanded.pth")
    torch.save({"weight": torch.zeros(1).half().expand(2**40)}, tmp_path / "halves.pth")
    inflate(write_released_checkpoint(tmp_path / "EMMA.pth"), tmp_path / "inflated.pth")
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{" + b" " * 100)
    (tmp_path / "shape.safetensors").write_bytes(absurd_safetensors())
    code = """
from detection.weights import read_weights
from emma_core.checkpoint import load_ufuser
def attack(*files):
    said = []
    for file in files:
        for load in (load_ufuser, read_weights):
            try:
                load(file)
                said.append(f"{file} was taken")
            except EmmaError as error:
                said.append(str(error))
    return "\\n".join(said)
"""
    names = ["expanded.pth", "halves.pth", "inflated.pth", "header.safetensors", "shape.safetensors"]
    grown, said = memory_of(code, *(tmp_path / name for name in names))
    assert [line.split(":")[0].rsplit("/", 1)[-1] for line in said.splitlines()] == [n for n in names for _ in "12"]
    assert "was taken" not in said
    assert grown < 100e6


def inflate(source: Path, target: Path) -> None:
    """Compress a checkpoint and add a quarter of a gigabyte of nothing, which takes a quarter of a megabyte."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        with new.open("EMMA/data/999", "w", force_zip64=True) as stream:
            for _ in range(16):
                stream.write(bytes(2**24))


def absurd_safetensors() -> bytes:
    header = {"weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


# Images


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of some kilobytes with a header of any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2**22))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


SIZES: dict[str, tuple[int, Callable[[int, int], bytes]]] = {
    "bmp": (60_000, lambda width, height: struct.pack("<ii", width, height)),
    "jpeg": (60_000, lambda width, height: struct.pack(">HH", height, width)),
    "tiff": (60_000, lambda width, height: struct.pack("<HHIIHHII", 256, 4, 1, width, 257, 4, 1, height)),
    "webp": (16_383, lambda width, height: struct.pack("<HH", width, height)),
}
"""Formats of images, a side [pixels] that their headers may claim, and how these spell width and height."""


def image_claiming(form: str) -> bytes:
    """A small image of one of the formats, whose header claims a large one."""
    side, spell = SIZES[form]
    stream = io.BytesIO()
    Image.new("RGB", (29, 31)).save(stream, form)
    assert stream.getvalue().count(spell(29, 31)) == 1
    return stream.getvalue().replace(spell(29, 31), spell(side, side))


@pytest.mark.parametrize("form", ["png", *SIZES])
def test_decompression_bombs_are_refused_before_memory_is_taken(tmp_path, form):
    file = tmp_path / f"a.{form}"
    file.write_bytes(png_claiming(60_000, 60_000) if form == "png" else image_claiming(form))
    code = "from emma_core.images import read_image\ndef attack(file):\n    return read_image(file).shape"
    grown, said = memory_of(code, file)
    assert said.endswith(f"a.{form}: too large, more than 178 megapixels")
    assert grown < 30e6


# JSON and TOML

DEEP = "[" * 100_000
HUGE = "9" * 5000


def _result(place: Path) -> dict[str, object]:
    common = {"task": "t", "title": "T", "dataset": "D", "split": "all", "split_hash": "h", "count": 1, "row": "max"}
    path = write_result(place, Result(**common, columns=(Column("EN"),), values={"EN": 1.0}))
    return json.loads(path.read_text())


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, HUGE, f"[{HUGE}]", "nul", "[1,", '"\\ud800"', "1e999"])
def test_json_of_extreme_nesting_and_numbers(tmp_path, text):
    for name in (MANIFEST, "a.json"):
        (tmp_path / name).write_text(text)
    readers = [read_result, read_comparisons, read_index, read_conditions, read_predictions]
    readers += [lambda path: read_split(path, []), lambda path: read_coco(path, ("Car",))]
    readers += [lambda path: read_manifest(path.parent)]
    for read in readers:
        with watchdog(), pytest.raises(EmmaError, match=r"\.json") as said:
            read(tmp_path / "a.json")
        assert "\n" not in str(said.value)
    assert read_log(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    "text", [f"a = {DEEP}", "a = " + "{b=" * 100_000, f"channels = [{HUGE}]", "a.a.a = 1\n[a.a.a]"]
)
def test_toml_of_extreme_nesting_and_numbers(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with watchdog(), pytest.raises(EmmaError, match=r"a\.toml"):
        read_toml(tmp_path / "a.toml", UFuserConfig)
    for command in (["detect"], ["segment"], ["train", "sensing", "--modality", "ir", "--data", "x=y,z"]):
        done = emma(*command, "--config", tmp_path / "a.toml", cwd=tmp_path)
        assert done.returncode in {1, 2}
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-Infinity", "1e999", f"1{'0' * 400}", '"5"', "true", "[5]"])
@pytest.mark.parametrize("place", ["values", "deviation", "seconds"])
def test_figures_that_are_none(tmp_path, figure, place):
    content = _result(tmp_path)
    content[place] = {"EN": "FIGURE"} if place != "seconds" else "FIGURE"
    (tmp_path / "result.json").write_text(json.dumps(content).replace('"FIGURE"', figure))
    with pytest.raises(ResultError, match=r"result\.json"):
        read_result(tmp_path / "result.json")


# Names

STRANGE = ("new\nline", "tab\tbed", "escape\x1b[2J", "delete\x7f", "next\x85line")
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)")
BIDI = ("\u202egnp.exe", "a\u2066b\u2069", "\u200fx")


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "TNO", 1, shape=(40, 48))


def add(root: Path, *names: str) -> None:
    for name in names:
        for side in ("ir", "vi"):
            write_image(root / side / f"{name}.png", random_image(1, (40, 48)))


def test_names_with_control_characters_are_left_out_and_do_not_reach_the_terminal(root):
    """A line end in an id would make two ids of one in every list; an escape sequence would rule the terminal."""
    add(root, *STRANGE)
    done = emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", root.parent / "runs")
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("Left out ")]) == len(STRANGE)
    assert not [sign for sign in done.stderr + done.stdout if sign != "\n" and unicodedata.category(sign) == "Cc"]
    assert [path.name for path in (root.parent / "runs").rglob("*.png")] == ["000.png"]


def test_formulas_and_writing_directions_stay_text_in_tables(root):
    """Spreadsheets run what begins with = + - @; a name that turns the line round could hide an ending."""
    add(root, *FORMULAS, *BIDI, "-12")
    runs = root.parent / "runs"
    assert emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs).returncode == 0
    for name, row in (("=1+1", "max"), ("\u202eEMMA", "max")):
        (runs / "fused" / "TNO" / row).rename(runs / "fused" / "TNO" / name)
        assert emma("evaluate", "TNO", "--root", root, "--runs", runs).returncode == 0
        (runs / "fused" / "TNO" / name).rename(runs / "fused" / "TNO" / row)
    assert emma("report", "--runs", runs).returncode == 0
    tables = [*runs.rglob("*.csv")]
    assert len(tables) >= 5
    for table in tables:
        for line in csv.reader(io.StringIO(table.read_text())):
            assert not [cell for cell in line if cell[:1] in set("=+-@\t\r") and not is_number(cell)], table
    for page in ("index.html", "tables.md", "tables.tex"):
        text = (runs / "report" / page).read_text()
        assert not [
            sign for sign in text if unicodedata.bidirectional(sign) in {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI"}
        ]


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


ELSEWHERE = ["..", "../x", "/etc/x", "a/../../x", "a\\b", "", "a\0b", "a\nb", "a\x1b[2J"]
PLACES = [(place, name) for name in ELSEWHERE for place in ("split", "id") if (place, name) != ("split", "")]
"""A split without a name is a data set without parts."""


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_a_manifest_or_journal_cannot_name_files_elsewhere(root, place, name):
    runs = root.parent / "runs"
    command = ["fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs]
    assert emma(*command).returncode == 0
    folder = runs / "fused" / "TNO" / "max"
    content = json.loads((folder / MANIFEST).read_text())
    row = {**content["rows"][0], place: name}
    (folder / MANIFEST).write_text(json.dumps({**content, "rows": [row]}))
    with pytest.raises(ManifestError):
        read_manifest(folder)
    done = emma(*command, "--overwrite")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    (folder / MANIFEST).unlink()
    identity = {"dataset": content["dataset"], "root": content["root"], **content["settings"]}
    (folder / JOURNAL).write_text(json.dumps(identity) + "\n" + json.dumps(row) + "\n")
    outside = tree_outside(folder, root.parent)
    assert emma(*command).returncode == 0
    assert list(read_manifest(folder).rows) == ["all/000"]
    assert tree_outside(folder, root.parent) == outside


def tree_outside(folder: Path, place: Path) -> dict[Path, bytes]:
    """Read every file below a place that is not in a folder."""
    files = (path for path in place.rglob("*") if path.is_file() and not path.is_relative_to(folder))
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_do_not_lead_out_of_a_folder_of_fused_images(root, overwrite):
    """Somebody's runs come with a link in them: nothing is written or removed where it leads."""
    runs, victim = root.parent / "runs", root.parent / "victim"
    command = ["fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs]
    assert emma(*command).returncode == 0
    (runs / "fused" / "TNO" / "max" / "all").rename(victim)
    (victim / "000.png").write_bytes(b"precious")
    (runs / "fused" / "TNO" / "max" / "all").symlink_to(victim)
    done = emma(*command, *["--overwrite"] * overwrite)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is a link to another folder" in done.stderr
    assert tree(victim) == {"000.png": b"precious"}


def test_a_link_in_place_of_an_image_is_replaced_not_followed(root):
    runs, precious = root.parent / "runs", root.parent / "precious.png"
    precious.write_bytes(b"precious")
    (runs / "fused" / "TNO" / "max" / "all").mkdir(parents=True)
    emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs)
    image = runs / "fused" / "TNO" / "max" / "all" / "000.png"
    if image.exists():
        image.unlink()
    image.symlink_to(precious)
    emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs)
    assert precious.read_bytes() == b"precious"


# Names that are one on some disks


@pytest.mark.parametrize(
    "names",
    [
        ("A.png", "a.png"),
        ("a.PNG", "a.png"),
        ("é.png", unicodedata.normalize("NFD", "é.png")),
        ("STRASSE.png", "straße.png"),
    ],
)
@pytest.mark.parametrize("sides", [("ir",), ("ir", "vi")])
def test_ids_that_collide_on_some_disks_are_named_and_neither_is_fused(root, names, sides):
    for side in ("ir", "vi"):
        for name in names if side in sides else names[:1]:
            (root / side / name).write_bytes((root / side / "000.png").read_bytes())
    if len(list((root / sides[0]).iterdir())) < 3:
        pytest.skip("this disk cannot hold both names")
    pairs = find_pairs(dataset_spec("TNO"), root)
    assert [pair.id for pair in pairs.pairs] == ["000"]
    (fault,) = pairs.faults
    assert all(name in fault.reason for name in names)
    done = emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", root.parent / "runs")
    assert done.returncode == 1
    assert [path.name for path in (root.parent / "runs").rglob("*.png")] == ["000.png"]


def test_a_pair_may_spell_its_name_in_both_forms(root):
    """One copy of a data set went through a disk that changes the form of accents."""
    data = (root / "ir" / "000.png").read_bytes()
    (root / "ir" / "é.png").write_bytes(data)
    (root / "vi" / unicodedata.normalize("NFD", "é.png")).write_bytes(data)
    assert [pair.id for pair in find_pairs(dataset_spec("TNO"), root).pairs] == ["000", "é"]
