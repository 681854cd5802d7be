"""Finding pairs: layouts, splits, lists, and what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_pairs
from hypothesis import given
from hypothesis import strategies as st

from emma_core.datasets import DATASETS, dataset_spec, folder_spec
from emma_core.errors import DataError, UsageError
from emma_core.options import find_dataset
from emma_core.pairs import find_pairs, read_split_file, split_hash


def test_names_ignore_case_and_unknown_ones_list_the_known():
    assert dataset_spec("m3fd").name == "M3FD"
    with pytest.raises(UsageError, match="MSRS, M3FD, RoadScene, TNO, Harvard"):
        dataset_spec("KITTI")


@pytest.mark.parametrize("name", DATASETS)
def test_every_declared_layout_is_found(tmp_path, name):
    spec = dataset_spec(name)
    for candidate in range(max(len(part.folders) for part in spec.splits)):
        root = tmp_path / str(candidate)
        parts = [part for part in spec.splits if candidate < len(part.folders)]
        for part in parts:
            write_pairs(root, 2, shape=(4, 4), folders=part.folders[candidate])
        found = find_pairs(spec, root)
        assert [pair.key for pair in found.pairs] == [f"{part.name}/{i:03d}" for part in parts for i in range(2)]
        assert not found.faults
        for pair, part in zip(found.pairs[::2], parts, strict=True):
            assert pair.infrared == root / part.folders[candidate][0] / "000.png"
            assert pair.visible == root / part.folders[candidate][1] / "000.png"


def test_folder_case_does_not_matter(tmp_path):
    write_pairs(tmp_path, 1, folders=("IR", "VIS"))
    assert len(find_pairs(dataset_spec("M3FD"), tmp_path).pairs) == 1


def test_medical_pairs_take_the_colour_of_the_functional_scan():
    sides = {part.name: part.colour_from for part in dataset_spec("Harvard").splits}
    assert sides == {"MRI-CT": "visible", "MRI-PET": "infrared", "MRI-SPECT": "infrared"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count"), [("MSRS", 201), ("M3FD", 13), ("RoadScene", 221), ("TNO", 25), ("Harvard", 136)]
)
def test_real_folders(data, name, count):
    found = find_pairs(dataset_spec(name), data / name)
    assert (len(found.pairs), found.faults) == (count, ())


@pytest.mark.data
def test_real_lists(data):
    spec, root = dataset_spec("MSRS"), data / "MSRS"
    train, test = (find_pairs(spec, root, split_file=root / f"{part}_list.txt") for part in ("train", "test"))
    assert (len(train.pairs), len(test.pairs)) == (121, 80)
    assert test.label.startswith("test_list-")
    assert not {pair.key for pair in train.pairs} & {pair.key for pair in test.pairs}


def test_split_by_name_and_unknown_split(tmp_path):
    write_pairs(tmp_path / "train", 3)
    write_pairs(tmp_path / "test", 2)
    spec = dataset_spec("MSRS")
    assert len(find_pairs(spec, tmp_path, split="TEST").pairs) == 2
    with pytest.raises(UsageError, match="it has: train, test"):
        find_pairs(spec, tmp_path, split="val")


def test_faults_are_named_and_the_rest_is_found(tmp_path):
    write_pairs(tmp_path, 6)
    (tmp_path / "ir" / "000.png").unlink()
    (tmp_path / "vi" / "001.png").unlink()
    (tmp_path / "vi" / "002.jpg").write_bytes(b"x")
    (tmp_path / "ir" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "ir" / "notes.txt").write_bytes(b"x")
    (tmp_path / "ir" / "A.png").write_bytes(b"x")
    (tmp_path / "ir" / "a.bmp").write_bytes(b"x")
    found = find_pairs(dataset_spec("TNO"), tmp_path)
    assert [pair.id for pair in found.pairs] == ["003", "004", "005"]
    reasons = {fault.id: fault.reason for fault in found.faults}
    assert reasons.keys() == {"000", "001", "002", "A"}
    assert reasons["000"].endswith("missing in " + str(tmp_path / "ir"))
    assert reasons["001"].endswith("missing in " + str(tmp_path / "vi"))
    assert "002.jpg, 002.png" in reasons["002"]
    assert "two files" in reasons["A"]


def test_unreadable_folder_is_a_fault_of_its_split_alone(tmp_path, monkeypatch):
    write_pairs(tmp_path / "train", 2)
    write_pairs(tmp_path / "test", 2)
    closed, listing = tmp_path / "train" / "ir", Path.iterdir

    def iterdir(folder):
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = find_pairs(dataset_spec("MSRS"), tmp_path)
    assert [pair.split for pair in found.pairs] == ["test", "test"]
    assert "Permission denied" in found.faults[0].reason


@pytest.mark.parametrize("made", [(), ("ir",)])
def test_missing_folders_say_what_was_expected(tmp_path, made):
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"expected .*Ir \+ Vis.*emma-tasks datasets TNO"):
        find_pairs(dataset_spec("TNO"), tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_pairs(dataset_spec("TNO"), tmp_path / "none")


def test_nobody_is_told_where_to_get_what_is_his_own(tmp_path):
    with pytest.raises(DataError, match=r"mine: no such folder: .*nowhere and .*vi$"):
        find_pairs(folder_spec("mine", tmp_path / "nowhere", tmp_path / "vi"), tmp_path)


def test_empty_folders(tmp_path):
    (tmp_path / "ir").mkdir()
    (tmp_path / "vi").mkdir()
    with pytest.raises(DataError, match="hold no images"):
        find_pairs(dataset_spec("TNO"), tmp_path)


def test_own_folders_and_bad_names(tmp_path):
    write_pairs(tmp_path, 2)
    found = find_pairs(folder_spec("mine", tmp_path / "ir", tmp_path / "vi"), tmp_path)
    assert [pair.key for pair in found.pairs] == ["all/000", "all/001"]
    for name in ("../up", "", ".hidden", "a/b"):
        with pytest.raises(UsageError, match="cannot name a data set"):
            folder_spec(name, tmp_path, tmp_path)
    for name in ("MSRS", "msrs-sample"):
        with pytest.raises(UsageError, match="is a known data set"):
            folder_spec(name, tmp_path, tmp_path)


@pytest.mark.parametrize("relative", [False, True])
def test_own_folders_with_parts(tmp_path, relative, monkeypatch):
    for split, count in (("test", 2), ("train", 3)):
        write_pairs(tmp_path / split, count, folders=("thermal/8bit", "rgb"))
    monkeypatch.chdir(tmp_path)
    root = Path() if relative else tmp_path
    folders = (root / "{split}" / "thermal" / "8bit", root / "{split}" / "rgb")
    found = find_dataset("mine", None, *folders)
    assert [pair.key for pair in found.pairs] == [*(f"train/00{i}" for i in range(3)), "test/000", "test/001"]
    assert found.root == tmp_path
    assert found.pairs[0].infrared == tmp_path / "train" / "thermal" / "8bit" / "000.png"
    assert found.pairs[-1].visible == tmp_path / "test" / "rgb" / "001.png"
    assert len(find_dataset("mine", None, *folders, split="test").pairs) == 2
    write_pairs(tmp_path / "val", 1, folders=("thermal/8bit", "rgb"))
    assert find_dataset("mine", None, *folders).parts == ("test", "train", "val")


def test_one_folder_is_no_pair(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"mine: infrared and visible are both .*; expected one folder of each camera"):
        folder_spec("mine", tmp_path, tmp_path / "link")


def test_own_folders_agree_on_whether_they_have_parts(tmp_path):
    write_pairs(tmp_path / "train", 1)
    both = (tmp_path / "{split}" / "ir", tmp_path / "train" / "vi")
    for infrared, visible in (both, both[::-1]):
        with pytest.raises(UsageError, match=r"\{split\} stands in one of them; expected in both or in neither"):
            find_dataset("mine", None, infrared, visible)
    assert folder_spec("mine", tmp_path / "train" / "ir", tmp_path / "train" / "vi").patterns is None


@pytest.mark.parametrize(
    ("text", "says"), [("", "lists no id"), ("# only\n\n", "lists no id"), ("1\n1\n", "twice"), ("9\n", "1 of 1 ids")]
)
def test_bad_lists(tmp_path, text, says):
    write_pairs(tmp_path, 2)
    listing = tmp_path / "list.txt"
    listing.write_text(text)
    with pytest.raises(DataError, match=says):
        find_pairs(dataset_spec("TNO"), tmp_path, split_file=listing)


def test_missing_and_binary_lists(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_split_file(tmp_path / "none.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_split_file(tmp_path / "list.txt")


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.randoms())
def test_split_hash_depends_on_the_set_alone(keys, random):
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert split_hash(shuffled) == split_hash(keys)
    assert split_hash([*keys, "one more" * 9]) != split_hash(keys)


def test_first_pairs_get_a_label_of_their_own(tmp_path):
    write_pairs(tmp_path, 3)
    found = find_pairs(dataset_spec("TNO"), tmp_path)
    assert found.first(None) is found
    assert found.first(3) is found
    assert (found.first(2).label, len(found.first(2).pairs)) == ("all-first-2", 2)


def test_lists_may_name_files_and_begin_with_a_mark(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "list.txt").write_text("\ufeff001.png\nall/002\n", "utf-8")
    found = find_pairs(dataset_spec("TNO"), tmp_path, split_file=tmp_path / "list.txt")
    assert [pair.id for pair in found.pairs] == ["001", "002"]


def test_lists_of_one_name_have_labels_of_their_own(tmp_path):
    write_pairs(tmp_path / "test", 3)
    labels = set()
    for index, identifier in enumerate(("000", "001")):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "test.txt").write_text(identifier)
        split_file = tmp_path / str(index) / "test.txt"
        labels.add(find_pairs(dataset_spec("MSRS"), tmp_path, split_file=split_file).label)
    assert len(labels | {"test"}) == 3


def test_an_id_of_several_parts_must_be_spelled_out(tmp_path):
    for modality in ("CT", "PET"):
        write_pairs(tmp_path, 1, folders=(f"MRI-{modality}/{modality}", f"MRI-{modality}/MRI"))
    (tmp_path / "list.txt").write_text("000")
    with pytest.raises(DataError, match="names 2 pairs; write one of MRI-CT/000, MRI-PET/000"):
        find_pairs(dataset_spec("Harvard"), tmp_path, split_file=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("MRI-PET/000")
    assert len(find_pairs(dataset_spec("Harvard"), tmp_path, split_file=tmp_path / "list.txt").pairs) == 1


def test_contents_have_a_hash_of_their_own(tmp_path):
    one = find_pairs(dataset_spec("TNO"), write_pairs(tmp_path / "a", 2))
    other = find_pairs(dataset_spec("TNO"), write_pairs(tmp_path / "b", 2, shape=(8, 8)))
    assert one.hash == other.hash
    assert one.sources_hash() != other.sources_hash()
