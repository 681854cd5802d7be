"""A data set of one's own with boxes, from its declaration to a training: the commands of the docs, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Outcome, emma, write_pairs
from own_data import follow_advice, write_own

from detection.own import OwnBoxes, read_own
from emma_core.errors import UsageError

TOY = OwnBoxes("toy", "ir", "vi", ("Deer", "Boar"))


@pytest.fixture
def place(tmp_path) -> Path:
    """The declaration of the docs, and pairs and YOLO labels where it says that they are."""
    counts = {"train": 3, "val": 2, "test": 2}
    root = write_own(tmp_path, "detection.md", counts)
    for split, count in counts.items():
        (root / split / "boxes").mkdir()
        for index in range(count):
            (root / split / "boxes" / f"{index:03d}.txt").write_text(f"{index % 2} 0.5 0.5 0.25 0.5\n")
    return tmp_path


def detect(place: Path, *options: str) -> Outcome:
    return emma("detect", "mine.toml", "--root", "my data", "--dry-run", *options, cwd=place)


def test_the_advised_command_makes_the_fused_row(place):
    follow_advice(detect(place), place, "max")
    outcome = detect(place)
    assert outcome.returncode == 0, outcome.stderr
    assert "mine: 7 pairs with boxes (Deer 4, Wild boar 3;" in outcome.stderr
    assert "Split official: 3 to train, 2 to validate, 2 to test" in outcome.stderr
    assert "on 3 images, for each row (IR, VI, max)" in outcome.stdout


def test_labels_in_the_usual_places_need_no_declaration(place):
    text = (place / "mine.toml").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("labels")]
    (place / "mine.toml").write_text("\n".join(lines), "utf-8")
    assert "mine: no labels under" in detect(place, "--ir").stderr
    for part in ("train", "val", "test"):
        (place / "my data" / part / "boxes").rename(place / "my data" / part / "labels")
    (place / "my data" / "train" / "labels" / "classes.txt").write_text("wild boar\ndeer\n")  # an order of its own
    outcome = detect(place, "--ir")
    assert outcome.returncode == 0, outcome.stderr
    assert "(Deer 3, Wild boar 4;" in outcome.stderr


def test_where_it_is_has_to_be_said(place):
    refused = emma("detect", "mine.toml", cwd=place)
    assert refused.returncode == 2
    assert "Where is mine? Add --root DIR, the folder that mine.toml is about" in refused.stderr


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes": ()}, "expected names, one at least"),
        ({"classes": ("Deer", " ")}, "expected names, one at least"),
        ({"classes": ("Deer", "deer")}, "'deer' is taken for 'Deer'; expected another name"),
        ({"classes": ("Person", "Pedestrian")}, "'Pedestrian' is taken for 'Person'"),
        ({"classes": ("Deer", "Recall")}, "'Recall' is that of a measure"),
    ],
)
def test_class_names_that_would_lose_objects_are_refused(change, match):
    with pytest.raises(UsageError, match=match):
        replace(TOY, **change)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('name = "M3FD"', "M3FD is a known data set"),
        ('name = "../mine"', "cannot name a data set"),
        ('name = "mine"\npalette = []', r"mine\.toml: .*palette"),
    ],
)
def test_declarations_that_are_none(tmp_path, lines, match):
    write_pairs(tmp_path, 1)
    path = tmp_path / "mine.toml"
    path.write_text(f'{lines}\ninfrared = "ir"\nvisible = "vi"\nclasses = ["Deer"]\n')
    with pytest.raises(UsageError, match=match):
        read_own(path).find_pairs(tmp_path)
