"""The whole of M3FD: the annotations are at hand, but not the images; what needs none of them, at full size."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from detection.bench import open_bench
from detection.duplicates import near_duplicates, scenes
from detection.splits import PARTS, listed_split, make_split, scene_parts
from emma_core.datasets import dataset_spec
from emma_core.pairs import Pair, PairSet

pytestmark = pytest.mark.data

CONDITIONS = {"train": (979, 708, 488, 484), "val": (214, 173, 108, 122), "test": (320, 197, 140, 156)}
"""Images by daytime, overcast, night and challenge in each published list, counted in the files by other code."""


@pytest.fixture(scope="module")
def published(data):
    """The images of each list as published."""
    return {part: json.loads((data / "M3FD_annotations" / f"{part}.json").read_text())["images"] for part in PARTS}


@pytest.fixture(scope="module")
def pairs(published, data):
    """All 4,200, by id."""
    ids = sorted(image["id"] for images in published.values() for image in images)
    found = tuple(Pair("all", identifier, "a.png", "b.png") for identifier in ids)
    return PairSet("M3FD", data / "M3FD_annotations", "all", found, dataset_spec("M3FD"))


def names(keys):
    return [key.rpartition("/")[2] for key in keys]


def test_the_published_lists_with_their_conditions(data, published, pairs, tmp_path):
    for part, images in published.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(image["file_name"] for image in images))
    test, train, val = (tmp_path / f"{part}.txt" for part in ("test", "train", "val"))
    choose = partial(listed_split, test=test, train=train, val=val)
    bench = open_bench(pairs, choose, labels=data / "M3FD_annotations")
    assert [len(getattr(bench.split, part)) for part in PARTS] == [2727, 633, 840]
    for part, images in published.items():
        keys = getattr(bench.split, part)
        assert names(keys) == [image["id"] for image in images]
        lights = [bench.listed.get(name) for name in names(keys)]
        assert tuple(map(lights.count, ("daytime", "overcast", "night", "challenge"))) == CONDITIONS[part]
    counted = {light: len(chosen) for light, chosen in bench.conditions.items()}  # of the test pairs
    assert counted == {"challenge": 156, "daytime": 320, "night": 140, "overcast": 197}
    assert bench.annotations.unlabelled == ()


def test_the_paper_split_of_the_whole_set(data, pairs):
    bench = open_bench(pairs, partial(make_split, method="paper"), labels=data / "M3FD_annotations")
    assert [len(getattr(bench.split, part)) for part in PARTS] == [3402, 378, 420]
    assert len({key for part in PARTS for key in getattr(bench.split, part)}) == len(pairs.pairs) == 4200
    assert bench.split == make_split(pairs.pairs, "paper")


def test_frames_of_one_scene_stay_together_among_thousands(pairs):
    """Ten frames a scene, each with a few other bits in its hashes."""
    scene = np.arange(4200) // 10
    rng = np.random.default_rng(0)
    hashes = (rng.random((420, 2, 64)) < 0.5)[scene] ^ (rng.random((4200, 2, 64)) < 0.01)
    links = near_duplicates(hashes)
    assert scenes(4200, links) == np.arange(4200).reshape(420, 10).tolist()
    assert np.array_equal(links, near_duplicates(hashes))
    parts = scene_parts(pairs.pairs, links)
    assert [len(part) for part in parts] == [3360, 420, 420]
    place = {pair.key: number for number, part in enumerate(parts) for pair in part}
    sides = np.array([place[pair.key] for pair in pairs.pairs]).reshape(420, 10)
    assert (sides == sides[:, :1]).all()
    assert parts == scene_parts(pairs.pairs, links)
