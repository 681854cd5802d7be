"""Splits: the paper's numbers, no overlap, near-duplicates on one side, lists and files of other people."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from conftest import random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.duplicates import difference_hash, hash_pairs, near_duplicates, scenes
from detection.splits import (
    METHODS,
    PARTS,
    DetectionSplit,
    default_method,
    listed_split,
    make_split,
    read_split,
    scene_parts,
    write_split,
)
from emma_core.datasets import dataset_spec
from emma_core.errors import DataError, UsageError
from emma_core.images import write_image
from emma_core.pairs import Pair, find_pairs


def made_up(count, split="all"):
    return [Pair(split, f"{number:05d}", "a.png", "b.png") for number in range(count)]


def covers(split, pairs):
    keys = [key for part in PARTS for key in getattr(split, part)]
    return sorted(keys) == sorted(pair.key for pair in pairs)


def test_the_paper_split_of_the_whole_set():
    split = make_split(made_up(4200), "paper")
    assert [len(getattr(split, part)) for part in PARTS] == [3402, 378, 420]
    assert covers(split, made_up(4200))
    # The preparation script that it follows, written out: two samples of one generator.
    chance = random.Random(0)
    both = chance.sample(range(4200), 3780)
    train = chance.sample(both, 3402)
    assert sorted(split.train) == sorted(f"all/{number:05d}" for number in train)
    assert split.test[:3] == ("all/00011", "all/00019", "all/00025")


@settings(max_examples=60, deadline=None)
@given(count=st.integers(10, 300), method=st.sampled_from(sorted(set(METHODS) - {"official"})))
def test_every_pair_is_in_one_part_and_again_in_the_same(count, method):
    pairs = made_up(count)
    split = make_split(pairs, method)
    assert covers(split, pairs)
    assert split == make_split(pairs, method)
    assert split.hash != DetectionSplit("", split.train, split.test, split.val).hash


def test_official_parts_and_defaults():
    pairs = made_up(20, "train") + made_up(5, "test")
    split = make_split(pairs, "official")
    assert set(split.test) == {f"test/{number:05d}" for number in range(5)}
    assert (len(split.train), len(split.val)) == (18, 2)
    assert default_method("MSRS", pairs) == "official"
    assert default_method("MSRS", made_up(5, "test")) == "blocks"
    assert default_method("M3FD", pairs) == "paper"
    with pytest.raises(UsageError, match="no parts train and test"):
        make_split(made_up(20), "official")


@pytest.mark.parametrize(("count", "method"), [(1, "paper"), (2, "thirds"), (3, "blocks")])
def test_too_few_pairs_are_refused(count, method):
    with pytest.raises(UsageError, match="no pair in"):
        make_split(made_up(count), method)


def test_unknown_method():
    with pytest.raises(UsageError, match="expected paper, blocks, official, thirds, scene"):
        make_split(made_up(20), "random")


def video(tmp_path, frames, rolls):
    """Pairs of a few rolling scenes, each for some frames."""
    pairs = []
    for scene in range(rolls):
        for frame in range(frames):
            files = []
            for side, seed in (("ir", scene), ("vi", 50 + scene)):
                coarse = np.random.default_rng(seed).random((6, 8)).astype(np.float32)
                image = np.roll(np.kron(coarse, np.ones((8, 8), np.float32)), frame, axis=1)
                path = tmp_path / side / f"{scene:02d}{frame}.png"
                write_image(path, image)
                files.append(str(path))
            pairs.append(Pair("all", f"{scene:02d}{frame}", *files))
    return pairs


def test_a_hash_outlives_brightness_noise_and_size():
    image = random_image(3, (60, 80))
    for other in (
        image * 0.5,
        image[::2, ::2],
        np.clip(image + 0.02 * np.random.default_rng(1).standard_normal(image.shape), 0, 1),
    ):
        assert (difference_hash(image) != difference_hash(other.astype(np.float32))).sum() <= 6
    assert (difference_hash(image) != difference_hash(image[:, ::-1].copy())).sum() > 16
    assert difference_hash(np.zeros((1, 1), np.float32)).shape == (64,)


def test_near_duplicates():
    rng = np.random.default_rng(0)
    unrelated = rng.random((40, 2, 64)) < 0.5
    assert len(near_duplicates(unrelated)) == 0
    copies = unrelated.copy()
    copies[30] = copies[2]
    copies[11] = copies[10]
    copies[11, :, :16] ^= True  # neighbours may differ more than others
    copies[20] = copies[3]
    copies[20, :, :16] ^= True
    assert near_duplicates(copies).tolist() == [[2, 30], [10, 11]]


def test_scenes_follow_chains():
    assert scenes(6, np.array([[0, 3], [3, 5], [1, 2]])) == [[0, 3, 5], [1, 2], [4]]
    assert scenes(2, np.empty((0, 2), np.int64)) == [[0], [1]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(30, 120))
def test_no_scene_is_ever_parted(seed, count):
    rng = np.random.default_rng(seed)
    links = np.sort(rng.integers(count, size=(count // 3, 2)), axis=1)
    parts = scene_parts(made_up(count), links)
    place = {pair.id: number for number, part in enumerate(parts) for pair in part}
    assert len(place) == count
    assert all(place[f"{one:05d}"] == place[f"{other:05d}"] for one, other in links)


def test_the_scene_split_keeps_frames_together_and_says_what_leaks_otherwise(tmp_path):
    pairs = video(tmp_path, frames=4, rolls=20)
    seen = []
    split = make_split(pairs, "scene", lambda: seen.append(1))
    assert len(seen) == 80
    assert covers(split, pairs)
    sides = {part: {key[4:6] for key in getattr(split, part)} for part in PARTS}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["val"]
    assert "of 8 test pairs have a near-duplicate among the training pairs" in split.notes[0]
    leaking = int(split.notes[0].partition("pairs, ")[2].split()[0])
    assert leaking >= 7
    assert split == make_split(pairs, "scene")


def listed(tmp_path, name, ids):
    path = tmp_path / name
    path.write_text("\n".join(ids))
    return path


def test_lists(tmp_path):
    pairs = made_up(20)
    test = listed(tmp_path, "test.txt", ["00003", "all/00004"])
    split = listed_split(pairs, test, None, None)
    assert split.test == ("all/00003", "all/00004")
    assert (len(split.train), len(split.val)) == (17, 1)
    assert covers(split, pairs)
    train, val = listed(tmp_path, "train.txt", ["00000.png", "00001"]), listed(tmp_path, "val.txt", ["00002"])
    split = listed_split(pairs, test, train, val)
    assert (split.train, split.val) == (("all/00000", "all/00001"), ("all/00002",))
    assert split.label.startswith("test-")
    with pytest.raises(DataError, match=r"test\.txt: 1 of 2 ids are no pairs with boxes here, first '00004'"):
        listed_split(pairs[:4], listed(tmp_path, "test.txt", ["00003", "00004"]), None, None)
    with pytest.raises(UsageError, match="'all/00002' is in train and in test"):
        listed_split(pairs, val, listed(tmp_path, "train.txt", ["00002", "00001"]), test)


def test_an_id_that_two_parts_have_is_refused(tmp_path):
    pairs = made_up(12, "train") + made_up(4, "test")
    test = listed(tmp_path, "test.txt", ["00003"])
    with pytest.raises(DataError, match=r"'00003' names 2 pairs; write one of train/00003, test/00003"):
        listed_split(pairs, test, None, None)
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["train/00001"], "val": ["00011"], "test": ["00003"]}))
    with pytest.raises(DataError, match=r"split\.json: '00003' names 2 pairs"):
        read_split(path, pairs)
    assert listed_split(pairs, listed(tmp_path, "test.txt", ["test/00003"]), None, None).test == ("test/00003",)


@pytest.mark.parametrize(("first", "second"), [("00003", "all/00003"), ("all/00003", "all/00003")])
def test_a_pair_that_a_part_lists_twice_is_refused(tmp_path, first, second):
    """It would count twice where images are counted, once where they are scored, and be trained on more often."""
    pairs, path = made_up(8), tmp_path / "split.json"
    message = rf"lists all/00003 twice in one part, as '{first}' and '{second}'; leave out one"
    for twice in PARTS:
        content = {part: [f"0000{number}"] for number, part in enumerate(PARTS)}
        path.write_text(json.dumps(content | {twice: [first, "00004", second]}))
        with pytest.raises(DataError, match=rf"split\.json: {message}"):
            read_split(path, pairs)
    if first != second:
        with pytest.raises(DataError, match=rf"test\.txt: {message}"):
            listed_split(pairs, listed(tmp_path, "test.txt", [first, second]), None, None)


@pytest.mark.parametrize(("count", "found"), [(4, "train 0, val 0, test 4"), (5, "train 0, val 1, test 4")])
def test_a_list_to_test_on_that_leaves_nothing_to_train_on_is_refused(tmp_path, count, found):
    test = listed(tmp_path, "test.txt", [pair.id for pair in made_up(4)])
    with pytest.raises(UsageError, match=rf"no pair in train \({found}\)"):
        listed_split(made_up(count), test, None, None)


def test_a_split_on_disk(tmp_path):
    pairs = made_up(30)
    split = make_split(pairs, "paper")
    path = write_split(tmp_path, split, "M3FD")
    again = read_split(path, pairs)
    assert (again.train, again.val, again.test, again.hash) == (split.train, split.val, split.test, split.hash)
    assert again.label == f"split-{split.hash[:6]}"
    foreign = tmp_path / "theirs.json"
    foreign.write_text(json.dumps({"train": ["00001"], "val": ["00002"], "test": ["00003"]}))
    assert read_split(foreign, pairs).test == ("all/00003",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no split"),
        ("[]", "no split"),
        ('{"train": ["00001"], "val": ["00002"]}', "'test'"),
        ('{"train": ["00001"], "val": ["00002"], "test": ["9"]}', "1 of 1 ids are no pairs"),
        ('{"train": ["00001"], "val": ["00002"], "test": []}', "no pair in test"),
        ('{"train": ["00001"], "val": ["00002"], "test": ["00001"]}', "is in train and in test"),
    ],
)
def test_a_damaged_split(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises((DataError, UsageError), match=message):
        read_split(path, made_up(5))


@pytest.mark.data
def test_real_frames_of_one_place_are_found(data):
    pairs = find_pairs(dataset_spec("M3FD"), data / "M3FD").pairs
    found = scenes(len(pairs), near_duplicates(hash_pairs(pairs)))
    assert [pairs[number].id for number in found[0]] == ["00000", "00001", "00003", "00004"]
    assert len(found) >= 9
    road = find_pairs(dataset_spec("RoadScene"), data / "RoadScene").pairs
    hashes = hash_pairs(road)
    links = {(road[one].id, road[other].id) for one, other in near_duplicates(hashes).tolist()}
    assert ("FLIR_09465", "FLIR_video_02829") in links
    assert len(links) < 12
