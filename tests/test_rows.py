"""The names of rows: what every table has by itself cannot be something else; and in which number format rows are."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import emma, random_image, tree, write_pairs, write_released_checkpoint
from PIL import Image

from detection.own import OwnBoxes
from emma_core.datasets import dataset_spec
from emma_core.errors import DataError, UsageError
from emma_core.evaluate import evaluate_dataset
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.images import write_image
from emma_core.pairs import find_pairs
from emma_core.report.tables import table_of
from emma_core.results import read_result
from emma_core.rows import FIXED_ROWS, chosen_rows, fused_rows

TNO = dataset_spec("TNO")
SPELLED = [*FIXED_ROWS, "ir", "Vi", "mri", "Other", "MEAN", "Max"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two pairs, and images of them that were made elsewhere."""
    place = tmp_path_factory.mktemp("rows")
    write_pairs(place / "TNO", 2, shape=(48, 64))
    for index in range(2):
        write_image(place / "theirs" / f"{index:03d}.png", random_image(index, (48, 64)))
    return place


@pytest.mark.parametrize("name", SPELLED)
def test_foreign_images_do_not_take_the_place_of_a_row_that_every_table_has(place, tmp_path, name):
    run = emma("evaluate", "TNO", "--root", "TNO", "--fused-dir", f"{name}=theirs", "--runs", tmp_path, cwd=place)
    names = "IR, VI, MRI, other, mean, max"
    assert run.returncode == 2
    assert (
        run.stderr == f"Error: --fused-dir {name!r}: tables have a row of that name already; expected none of {names}\n"
    )
    assert tree(tmp_path) == {}
    with pytest.raises(UsageError, match="--fused-dir"):  # as detect and segment ask for rows
        chosen_rows(find_pairs(TNO, place / "TNO"), tmp_path, folders=[(name, place / "theirs")])


@pytest.mark.parametrize("name", SPELLED)
def test_another_method_does_not_fuse_under_such_a_name(place, tmp_path, name):
    asked = ["fuse-dataset", "TNO", "--root", "TNO", "--name", name, "--runs", tmp_path]
    for method in {"laplacian", "mean", "max"} - {name}:
        run = emma(*asked, "--method", method, cwd=place)
        assert (run.returncode, run.stderr[: len("Error: --name")]) == (2, "Error: --name")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("method", ["mean", "max"])
@pytest.mark.parametrize("named", [False, True])
def test_a_naive_rule_fuses_under_its_own_name(place, tmp_path, method, named):
    name = ["--name", method] if named else []
    asked = ["fuse-dataset", "TNO", "--root", "TNO", "--method", method.upper(), *name, "--runs", tmp_path]
    assert emma(*asked, cwd=place).returncode == 0
    rows = chosen_rows(find_pairs(TNO, place / "TNO"), tmp_path)
    assert [(row.name, row.baseline) for row in rows] == [("IR", True), ("VI", True), (method, True)]


@pytest.mark.parametrize("name", ["mean", "max", "Max", "IR", "Other"])
def test_a_folder_of_another_method_is_no_naive_row(place, tmp_path, name):
    """As an earlier version let it be made, or another program."""
    pairs = find_pairs(TNO, place / "TNO")
    fuse_dataset(pairs, load_fuser("laplacian"), fused_folder(tmp_path, "TNO", name))
    with pytest.raises(UsageError, match="fuse again with another --name"):
        fused_rows(pairs, tmp_path)


def test_foreign_images_are_found_whatever_the_case_of_their_names(place, tmp_path):
    for index, name in enumerate(("000.PNG", "001.Png")):
        write_image(tmp_path / "new.png", random_image(index, (48, 64)))
        (tmp_path / "new.png").rename(tmp_path / name)
    *_, row = chosen_rows(
        find_pairs(TNO, place / "TNO"), tmp_path / "runs", infrared=True, folders=[("them", tmp_path)]
    )
    assert [path.name for path in row.files.values()] == ["000.PNG", "001.Png"]


def test_two_foreign_images_of_one_pair_are_refused(place, tmp_path):
    for name in ("000.png", "001.png"):
        write_image(tmp_path / name, random_image(0, (48, 64)))
    shutil.copy(tmp_path / "000.png", tmp_path / "001.bmp")
    with pytest.raises(DataError, match=r"two fused images of one pair: 001\.bmp, 001\.png; keep one"):
        chosen_rows(find_pairs(TNO, place / "TNO"), tmp_path / "runs", folders=[("them", tmp_path)])


def test_the_number_format_of_fused_images_stands_in_the_result_and_under_the_table(place, tmp_path):
    pairs, weights = find_pairs(TNO, place / "TNO"), write_released_checkpoint(tmp_path / "EMMA.pth")

    def fuse(name, method, **options):
        fuse_dataset(pairs, load_fuser(method, **options), fused_folder(tmp_path, "TNO", name))

    fuse("EMMA", "EMMA", weights=weights, precision="bf16")
    fuse("exact", "EMMA", weights=weights, precision="fp32")
    fuse("laplacian", "laplacian")
    results = evaluate_dataset(pairs, fused_rows(pairs, tmp_path), tmp_path).results
    said = {result.row: (result.source.get("precision"), result.notes) for result in results}
    assert said["EMMA"] == ("bf16", ("EMMA: fused in bf16.",))
    assert said["exact"] == ("fp32", ("exact: fused in fp32.",))
    assert said["laplacian"] == said["max"] == (None, ()), "rules have no number format to choose"
    assert {"EMMA: fused in bf16.", "exact: fused in fp32."} <= set(table_of(results).notes)


def test_images_with_other_settings_say_so_and_the_command_named_makes_them(tmp_path):
    """By that command, as it is printed, a folder that lost an image is whole again."""
    root = write_pairs(tmp_path / "TNO", 2, shape=(48, 64))
    weights = write_released_checkpoint(tmp_path / "EMMA.pth")
    options = ["--weights", weights, "--range", "stretch", "--grey", "--name", "odd one", "--runs", "my runs"]
    assert emma("fuse-dataset", "TNO", "--root", root, *options, cwd=tmp_path).returncode == 0
    runs = tmp_path / "my runs"
    (row,) = fused_rows(find_pairs(TNO, root), runs)
    assert {key: row.source[key] for key in ("range", "colour")} == {"range": "stretch", "colour": "none"}
    assert "tile" not in row.source, "what is usual is not named"
    (fused_folder(runs, "TNO", "odd one") / "all" / "001.png").unlink()
    refused = emma("evaluate", "TNO", "--root", root, "--runs", "my runs", cwd=tmp_path)
    command = refused.stderr.strip().rpartition("Make them with: emma-tasks ")[2].replace("FILE", str(weights))
    assert emma(*shlex.split(command), cwd=tmp_path).returncode == 0, command
    again = emma("evaluate", "TNO", "--root", root, "--runs", "my runs", cwd=tmp_path)
    assert (again.returncode, "odd one: fused with range stretch, colour none." in again.stdout) == (0, True)


def test_the_command_named_replaces_images_of_another_place(tmp_path):
    roots = [write_pairs(tmp_path / f"{height}" / "TNO", 2, shape=(height, 64)) for height in (48, 56)]
    assert emma("fuse-dataset", "TNO", "--root", roots[0], "--method", "laplacian", cwd=tmp_path).returncode == 0
    refused = emma("evaluate", "TNO", "--root", roots[1], cwd=tmp_path)
    command = refused.stderr.strip().rpartition("Make them with: emma-tasks ")[2]
    assert emma(*shlex.split(command), cwd=tmp_path).returncode == 0, command
    assert emma("evaluate", "TNO", "--root", roots[1], cwd=tmp_path).returncode == 0


def test_the_command_named_keeps_the_images_of_a_data_set_that_was_moved(tmp_path):
    for part in ("train", "test"):
        write_pairs(tmp_path / "old" / part, 2)
    fused = ["fuse-dataset", "MSRS", "--root", "old", "--split", "test", "--method", "laplacian"]
    assert emma(*fused, cwd=tmp_path).returncode == 0
    (tmp_path / "old").rename(tmp_path / "new")
    refused = emma("evaluate", "MSRS", "--root", "new", "--split", "train", cwd=tmp_path)
    command = refused.stderr.strip().rpartition("Make them with: emma-tasks ")[2]
    assert emma(*shlex.split(command), cwd=tmp_path).returncode == 0, command
    assert len(list(fused_folder(tmp_path / "runs", "MSRS", "laplacian").rglob("*.png"))) == 4


@pytest.mark.parametrize(("asked", "made"), [("--split-file", ["test/001"]), ("--split", ["test/000", "test/001"])])
def test_the_command_named_fuses_what_was_asked_for_and_no_more(tmp_path, asked, made):
    root = tmp_path / "MSRS"
    for part in ("train", "test"):
        write_pairs(root / part, 2)
    listed = tmp_path / "my list.txt"
    listed.write_text("test/001\n", "utf-8")
    chosen = {"split_file": listed} if asked == "--split-file" else {"split": "test"}
    with pytest.raises(DataError) as refused:
        chosen_rows(find_pairs(dataset_spec("MSRS"), root, **chosen), tmp_path / "runs")
    command = (
        str(refused.value).rpartition("Make them with: emma-tasks ")[2].replace("--method EMMA", "--method wavelet")
    )
    assert emma(*shlex.split(command), cwd=tmp_path).returncode == 0, command
    folder = fused_folder(tmp_path / "runs", "MSRS", "wavelet")
    assert sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.png")) == made


def test_rows_made_elsewhere_need_none_of_ours(place, tmp_path):
    """A trial of one pair, fused here, does not keep anybody from scoring images of another tool."""
    begun = emma("fuse-dataset", "TNO", "--root", "TNO", "--limit", "1", "--runs", tmp_path, cwd=place)
    assert begun.returncode == 0, begun.stderr
    asked = ["evaluate", "TNO", "--root", "TNO", "--runs", tmp_path]
    refused = emma(*asked, cwd=place)
    assert (refused.returncode, "1 of 2 fused images are missing" in refused.stderr) == (1, True)
    scored = emma(*asked, "--fused-dir", "Theirs=theirs", cwd=place)
    assert scored.returncode == 0, scored.stderr
    assert "No row for" in scored.stderr
    pairs, folders = find_pairs(TNO, place / "TNO"), [("Theirs", place / "theirs")]
    assert [row.name for row in chosen_rows(pairs, tmp_path, folders=folders)] == ["IR", "VI", "Theirs"]
    with pytest.raises(DataError, match="fused images are missing"):  # asked for
        chosen_rows(pairs, tmp_path, fused=True, folders=folders)
    lost = emma(*asked, "--fused-dir", "Theirs=nowhere", cwd=place)
    assert (lost.returncode, "Theirs=nowhere: no such folder" in lost.stderr) == (1, True)


@pytest.mark.parametrize(
    "command", [["fuse-dataset", "x", "--vis", ".", "--ir"], ["medical", "--modality", "CT", "--other", ".", "--mri"]]
)
def test_links_that_lead_to_each_other_are_told(tmp_path, command):
    (tmp_path / "loop").symlink_to("loop")
    run = emma(*command, "loop", cwd=tmp_path)
    assert (run.returncode, run.stderr.startswith("Error: "), "loop" in run.stderr) == (1, True, True), run.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["fuse", "--ir", "TNO/ir", "--vis", "TNO/../TNO/ir", "--out", "x"],
            "--ir and --vis are both TNO/ir",
        ),
        (["fuse-dataset", "x", "--ir", "TNO/ir", "--vis", "TNO/ir"], "--ir and --vis are both TNO/ir"),
        (["medical", "--mri", "TNO", "--other", "TNO", "--modality", "CT"], "--mri and --other are both TNO"),
        (["fuse", "--ir", "TNO/ir", "--vis", "nowhere", "--out", "x"], "nowhere: no such file or folder"),
        (["fuse-dataset", "x", "--ir", "nowhere", "--vis", "TNO/ir"], "x: no such folder: "),
    ],
)
def test_a_mistyped_folder_is_told(place, tmp_path, command, said):
    """One folder given for both sides would be fused with itself, and every figure of it would mean nothing."""
    run = emma(*command, *(["--runs", tmp_path] if "--out" not in command else []), cwd=place)
    assert (run.returncode in {1, 2}, run.stderr.startswith(f"Error: {said}")) == (True, True), run.stderr
    assert tree(tmp_path) == {}


def write_thermal(folder: Path, *, low: int, high: int) -> None:
    """Write 16-bit images as a camera of fewer bits does."""
    folder.mkdir(parents=True)
    for index in range(2):
        values = low + (high - low) * random_image(index, (48, 64))
        Image.fromarray(values.astype(np.uint16)).save(folder / f"{index:03d}.png")


@pytest.mark.parametrize(("high", "is_said"), [(9000, True), (65535, False)])
def test_figures_of_images_that_use_little_of_their_16_bits_say_so(place, tmp_path, high, is_said):
    write_thermal(tmp_path / "thermal", low=7000, high=high)
    run = emma(
        "evaluate", "hot", "--ir", tmp_path / "thermal", "--vis", place / "TNO" / "vi", "--runs", tmp_path / "runs"
    )
    assert run.returncode == 0, run.stderr
    (result,) = (tmp_path / "runs" / "evaluate" / "hot" / "all" / "IR").glob("result.json")
    said = [note for note in read_result(result).notes if "images of 16 bits that use little of the range" in note]
    assert [note.split(":")[0] for note in said] == ["IR"] * is_said
    assert ("16 bits that use little" in " ".join(run.stdout.split())) == is_said


def test_a_home_folder_is_meant_wherever_it_stands(place, tmp_path, monkeypatch):
    """Shells leave the sign in ``--runs=~/mine``, and a declaration knows no shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run = emma("fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--runs=~/mine", cwd=place)
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert not (place / "~").exists()
    assert "is not a folder" in emma("evaluate", "TNO", "--root=~no-such-user/TNO", cwd=place).stderr
    (tmp_path / "TNO").symlink_to(place / "TNO")
    found = OwnBoxes("own", "~/TNO/ir", "~/TNO/vi", ("Deer",), labels="~/boxes")
    assert len(found.find_pairs(tmp_path / "elsewhere").pairs) == 2
    assert found.labels_under(tmp_path / "elsewhere") == tmp_path / "boxes"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate", "own.toml"], "own.toml: a declaration is for detect and segment; for the folders that it names"),
        (["evaluate", "TNO", "--root", "TNO", "--split-file", "split.json"], "split.json: is JSON, like a split.json"),
    ],
)
def test_a_file_for_another_command_is_told(place, command, said):
    (place / "split.json").write_text('{\n "train": ["000"]\n}')
    run = emma(*command, cwd=place)
    assert (run.returncode in {1, 2}, run.stderr.startswith(f"Error: {said}")) == (True, True), run.stderr
