"""Whose fused image a pair learns from: its own, or the request is refused before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, emma

from emma_core.errors import DataError, EmmaError, UsageError
from emma_core.images import write_image
from emma_core.train_data import Source, find_data

pytestmark = pytest.mark.usefixtures("one_thread")


def write(*files: Path) -> None:
    for file in files:
        write_image(file, np.full((16, 16), 0.5, dtype=np.float32))


@pytest.fixture
def two(tmp_path) -> Path:
    """Data sets A and B whose ids are the same, and the fused images of each, flat."""
    for name in "AB":
        for index in range(3):
            write(*(tmp_path / place / f"{index:03d}.png" for place in (f"{name}/ir", f"{name}/vi", f"fused{name}")))
    return tmp_path


@pytest.fixture
def split(tmp_path) -> Path:
    """A data set with 000 in two splits, 001 in one."""
    for place in ("ir/train/000", "ir/train/001", "ir/test/000"):
        write(tmp_path / f"{place}.png", tmp_path / f"{place.replace('ir', 'vi')}.png")
    return tmp_path


def sources(root: Path) -> list[Source]:
    return [Source(name, folders=(root / name / "ir", root / name / "vi")) for name in "AB"]


def parts(root: Path) -> Source:
    return Source("mine", folders=(root / "ir" / "{split}", root / "vi" / "{split}"))


def pairing(data: list[Source], *teachers: tuple[str, Path]) -> dict[str, dict[str, Path]]:
    found = find_data(data, teachers, held_out=1)
    return {scene.key: dict(scene.teachers) for scene in (*found.training, *found.validation)}


def refuses(said: str, kind: type[EmmaError] = DataError):
    return pytest.raises(kind, match=re.escape(said))


def command(root: Path, kind: str, *options: str | Path) -> Outcome:
    data = [text for name in "AB" for text in ("--data", f"{name}={root / name / 'ir'},{root / name / 'vi'}")]
    return emma("train", kind, *data, *options, cwd=root)


def test_an_image_that_may_be_of_two_data_sets_is_refused(two):
    ambiguous = (
        f"--teacher X={two / 'fusedA'}: 000.png may be of A/all/000 or of B/all/000; say of which: --teacher X@A="
    )
    for teachers in ([("X", two / "fusedA")], [("X", two / "fusedA"), ("X", two / "fusedB")]):
        with refuses(ambiguous):
            pairing(sources(two), *teachers)
    (two / "split").mkdir()
    (two / "fusedA").rename(two / "split" / "all")
    with refuses("all/000.png may be of A/all/000 or of B/all/000"):
        pairing(sources(two), ("X", two / "split"))


def test_a_folder_may_be_tied_to_a_data_set(two):
    tied = [(f"X@{name}", two / f"fused{name}") for name in "AB"]
    ids = ("000", "001", "002")
    expected = {f"{name}/all/{each}": {"X": two / f"fused{name}" / f"{each}.png"} for name in "AB" for each in ids}
    assert pairing(sources(two), *tied) == expected
    found = pairing(sources(two), tied[1])
    assert [found[f"{name}/all/001"] for name in "AB"] == [{}, expected["B/all/001"]]
    assert find_data(sources(two), tied).record.teachers == ("X",)


@pytest.mark.parametrize("left_out", ["excluded", "not listed", "without its mate"])
def test_a_pair_that_is_not_trained_on_still_owns_its_image(left_out, two):
    first, second = sources(two)
    (two / "ids").write_text("002\n" if left_out == "excluded" else "000\n001\n")
    changed = {"excluded": {"exclude_file": two / "ids"}, "not listed": {"split_file": two / "ids"}}
    first = Source("A", folders=first.folders, **changed.get(left_out, {}))
    if left_out == "without its mate":
        (two / "A" / "vi" / "002.png").unlink()
    for name in ("000", "001"):
        (two / "fusedA" / f"{name}.png").unlink()
    with refuses("002.png may be of A/all/002 or of B/all/002"):
        pairing([first, second], ("X", two / "fusedA"))


def test_one_flat_image_does_not_serve_two_splits(split):
    write(split / "fused" / "000.png", split / "fused" / "001.png")
    data = [parts(split)]
    with refuses(
        f"mine/train/000 or of mine/test/000; expected a folder for each split, as {split}/fused/train/000.png"
    ):
        pairing(data, ("X@mine", split / "fused"))
    (split / "fused" / "test").mkdir()
    (split / "fused" / "000.png").rename(split / "fused" / "test" / "000.png")
    assert pairing(data, ("X", split / "fused")) == {
        "mine/train/000": {},
        "mine/train/001": {"X": split / "fused" / "001.png"},
    }


def test_folders_of_one_teacher_may_share_the_pairs_but_not_one(two):
    data = sources(two)[:1]
    (two / "fusedB" / "001.png").unlink()
    with refuses(f"two fused images of all/000, {two}/fusedA/000.png and {two}/fusedB/000.png; expected one"):
        pairing(data, ("X", two / "fusedA"), ("X@A", two / "fusedB"))
    for name in ("000", "002"):
        (two / "fusedA" / f"{name}.png").unlink()
    found = pairing(data, ("X", two / "fusedA"), ("X", two / "fusedB"), ("Y", two / "fusedB"))
    assert found["A/all/001"] == {"X": two / "fusedA" / "001.png"}
    assert found["A/all/002"] == dict.fromkeys("XY", two / "fusedB" / "002.png")


def test_the_fuser_is_validated_on_no_pair_that_a_sensing_network_saw(tmp_path):
    names = [f"{index:03d}.png" for index in range(12)]
    write(*(tmp_path / folder / name for folder in ("ir", "vi") for name in names))
    write(*(tmp_path / "fused" / name for name in names[2:]))
    data = [Source("mine", folders=(tmp_path / "ir", tmp_path / "vi"))]
    fuser = find_data(data, held_out=3)
    sensing = find_data(data, [("X", tmp_path / "fused")], held_out=3, taught=True)
    assert [len(sensing.training), len(sensing.validation)] == [7, 3]
    assert not {scene.key for scene in sensing.training} & {scene.key for scene in fuser.validation}


@pytest.mark.parametrize("held_out", [1, 3])
def test_a_teacher_of_few_pairs_leaves_some_to_train_on_or_is_refused(held_out, tmp_path):
    names = [f"{index:03d}.png" for index in range(6)]
    write(*(tmp_path / folder / name for folder in ("ir", "vi") for name in names))
    write(tmp_path / "fused" / "001.png")
    data, teachers = [Source("mine", folders=(tmp_path / "ir", tmp_path / "vi"))], [("X", tmp_path / "fused")]
    if held_out == 3:  # 001, 003, 005
        with refuses("No pair to train on: all 1 that a teacher has an image of are held out"):
            find_data(data, teachers, held_out=held_out, taught=True)
    else:  # 003, which has no teacher
        found = find_data(data, teachers, held_out=held_out, taught=True)
        assert [len(found.training), len(found.validation), found.record.validation] == [1, 1, 0]


@pytest.mark.parametrize("other", ["all/001.png", "001.PNG"])
def test_a_folder_with_two_images_of_a_pair_is_refused(other, two):
    write(two / "fusedA" / other)
    with refuses("--teacher X: two fused images of all/001, "):
        pairing(sources(two)[:1], ("X", two / "fusedA"))


@pytest.mark.parametrize("teacher", ["X@C", "X@", "@A"])
def test_a_tie_names_a_teacher_and_a_data_set(teacher, two):
    with refuses("expected NAME@DATA=DIR, DATA being the name of a --data: A, B", UsageError):
        pairing(sources(two), (teacher, two / "fusedA"))


def test_a_tied_folder_without_an_image_of_its_data_set_is_named(two):
    (two / "empty").mkdir()
    with refuses(f"--teacher X@B={two / 'empty'}: holds no fused image of any of the 3 pairs"):
        pairing(sources(two), ("X@A", two / "fusedA"), ("X@B", two / "empty"))


@pytest.mark.parametrize("name", ["A", "a"])
def test_two_data_sets_of_one_name_are_refused(name, two):
    first, second = sources(two)
    with refuses(f"--data {name}: two are called so; give each a name of its own", UsageError):
        pairing([first, Source(name, folders=second.folders)])


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("kind", ["sensing", "fuser"])
def test_the_commands_refuse_and_a_tie_helps(kind, dry, two, trainable):
    options = ["--modality", "ir"]
    if kind == "fuser":
        networks = ["--sensing-ir", trainable / "Ai.safetensors", "--sensing-vis", trainable / "Av.safetensors"]
        options = [*networks, "--warm-start"]
    outcome = command(two, kind, *options, *dry, "--teacher", f"X={two / 'fusedA'}")
    assert outcome.returncode
    (line,) = outcome.stderr.splitlines()
    assert line.endswith(f"say of which: --teacher X@A={two / 'fusedA'} or X@B={two / 'fusedA'}")
    assert not (two / "runs").exists()
    tied = [text for name in "AB" for text in ("--teacher", f"X@{name}={two / f'fused{name}'}")]
    outcome = command(two, kind, *options, "--dry-run", *tied)
    assert outcome.returncode == 0, outcome.stderr
    assert "teachers X)" in outcome.stdout
