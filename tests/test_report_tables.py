"""Tables: what goes together, what is marked, and what hostile or damaged input does."""

from __future__ import annotations

import json
import math

import pytest
from conftest import write_pairs

from emma_core.datasets import folder_spec
from emma_core.errors import ResultError
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.manifest import Manifest, Row, write_manifest
from emma_core.pairs import find_pairs
from emma_core.report.figure import plot_of
from emma_core.report.notes import TRAININGS
from emma_core.report.parts import Cell, cell_text
from emma_core.report.tables import collect_tables, row_order, table_of
from emma_core.results import Column, Result, result_folder, write_result
from emma_core.rows import fused_rows
from emma_core.text import plain

EN = Column("EN", "bits", title="entropy")
LOSS = Column("Loss", higher_is_better=False)


def make(row, values=(1.0, 1.0), *, columns=(EN, LOSS), **other):
    names = [column.name for column in columns]
    given = {"task": "evaluate", "title": "Quality", "dataset": "Mine", "split": "test", "split_hash": "h", "count": 3}
    given["parts"] = ("test",)
    return Result(**(given | other), row=row, columns=columns, values=dict(zip(names, values, strict=True)))


def save(runs, *results):
    for result in results:
        where = (runs, result.task, result.dataset, result.split, f"{result.row}-{result.recipe.get('epochs', 0)}")
        write_result(result_folder(*where, result.seed), result)


def marks(table, column=0):
    return {row.name: row.cells[column].mark for row in table.rows}


def test_rows_stand_in_the_order_of_the_paper():
    baselines = [make(name, baseline=True) for name in ("max", "VI", "mean", "IR", "zero")]
    methods = [make(name) for name in ("EMMA", "wavelet", "Guided", "EMMA-small")]
    names = [row.name for row in table_of([*methods, *baselines]).rows]
    assert names == ["IR", "VI", "mean", "max", "zero", "Guided", "wavelet", "EMMA", "EMMA-small"]


def test_what_a_task_says_of_a_row_in_brackets_changes_neither_its_place_nor_its_kind():
    results = [make(f"{row} (pseudo-labels)", baseline=row != "EMMA") for row in ("max", "EMMA", "VI", "IR")]
    table = table_of(results)
    assert [row.name.partition(" ")[0] for row in table.rows] == ["IR", "VI", "max", "EMMA"]
    assert [dot.kind for dot in plot_of(table).panels[0].dots] == ["infrared", "visible", "baseline", "fused"]


def test_scans_stand_in_the_order_of_cameras():
    assert row_order("other", baseline=True) < row_order("MRI", baseline=True)
    assert row_order("MRI", baseline=True) < row_order("mean", baseline=True)


@pytest.mark.parametrize(
    "change",
    [
        {"split_hash": "other"},
        {"sources_hash": "other"},
        {"recipe": {"epochs": 2}},
        {"dataset": "Yours"},
        {"task": "detect"},
    ],
)
def test_what_differs_in_images_or_recipe_is_never_in_one_table(tmp_path, change):
    one, other = make("IR", baseline=True), make("EMMA", **change)
    save(tmp_path, one, other)
    tables, warnings = collect_tables(tmp_path)
    assert [len(table.rows) for table in tables] == [1, 1]
    assert warnings == []
    with pytest.raises(ResultError, match="do not go into one table"):
        table_of([one, other])


def test_equal_images_under_two_labels_are_two_tables(tmp_path):
    save(tmp_path, make("IR"), make("IR", split="all"))
    tables, warnings = collect_tables(tmp_path)
    assert [table.split for table in tables] == ["all", "test"]
    assert warnings == []


def test_a_copied_result_is_not_taken_for_a_second_seed(tmp_path):
    save(tmp_path, make("IR"))
    write_result(tmp_path / "evaluate" / "Mine" / "test" / "IR-copy", make("IR", (5.0, 5.0)))
    (table,), (warning,) = collect_tables(tmp_path)
    assert table.rows[0].cells[0].value == 1.0
    assert table.rows[0].files == ("evaluate/Mine/test/IR-0/result.json",)
    assert "same row" in warning


def test_best_and_second_best_follow_the_direction_of_the_column():
    table = table_of([make("a", (1.0, 1.0)), make("b", (2.0, 2.0)), make("c", (3.0, 3.0))])
    assert marks(table) == {"a": "", "b": "second", "c": "best"}
    assert marks(table, 1) == {"a": "best", "b": "second", "c": ""}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 2.0, 1.0], ["best", "best", "second"]),
        ([2.001, 2.0, 1.0], ["best", "best", "second"]),  # two digits are printed
        ([3.0, 2.0, 2.0], ["best", "second", "second"]),
        ([1.0, 1.0, 1.0], ["best", "best", "best"]),
        ([math.nan, 1.0, 2.0], ["", "second", "best"]),
        ([math.nan, math.inf, 2.0], ["", "", ""]),  # one figure alone is not the best of anything
        ([-0.0, 0.0, -1.0], ["best", "best", "second"]),
    ],
)
def test_ties_share_a_mark_and_missing_figures_have_none(values, expected):
    table = table_of([make(name, (value, 0.0)) for name, value in zip("abc", values, strict=True)])
    assert list(marks(table).values()) == expected


def test_seeds_become_mean_and_deviation():
    table = table_of(
        [make("EMMA", (value, math.nan if seed else 1.0), seed=seed) for seed, value in enumerate((1, 2, 6))]
    )
    (row,) = table.rows
    assert row.cells[0].value == 3.0
    assert row.cells[0].deviation == pytest.approx(math.sqrt(7))  # n - 1
    assert math.isnan(row.cells[1].value), "one seed has no figure, so the row has none"
    assert row.seeds == (0, 1, 2)
    assert "EMMA: mean and standard deviation over 3 seeds." in table.notes
    assert table.notes.count(TRAININGS) == 1


def test_a_reader_is_told_what_rows_do_not_share():
    rows = [make("EMMA", seed=0, source={"manifest": "a"}), make("EMMA", seed=1, source={"manifest": "b"})]
    notes = table_of([*rows, make("IR", count=2, notes=("Mind the gap.",))]).notes
    assert "EMMA: its seeds were not run on the same input images." in notes
    assert "IR: over 2 images." in notes
    assert "Mind the gap." in notes


def test_images_are_the_same_where_their_hash_is_whatever_else_is_said_of_them():
    def noted(*sources):
        notes = table_of([make("EMMA", seed=seed, source=source) for seed, source in enumerate(sources)]).notes
        return "EMMA: its seeds were not run on the same input images." in notes

    one, grown = ({"manifest_sha256": name, "images_sha256": "i"} for name in "ab")
    assert not noted(one, grown), "pairs were added to the folder in between"
    assert noted(one, one | {"images_sha256": "j"})
    assert not noted({"manifest_sha256": "a"}, one | {"fused": "Mine/EMMA"}), "an earlier version wrote less"
    assert noted({"manifest_sha256": "b"}, one)


def test_seeds_that_rows_do_not_share_are_said():
    def notes(**seeds):
        return table_of([make(row, seed=seed) for row, some in seeds.items() for seed in some]).notes

    unequal = notes(IR=(0, 1), EMMA=(3,))
    assert "Not the same seeds (IR: 0, 1; EMMA: 3): a difference may be that of the seeds." in unequal
    assert "EMMA: one seed: intervals are over images only, not over trainings." in unequal
    assert notes(IR=(0,), EMMA=(0,)) == ("One seed: intervals are over images only, not over trainings.",)
    assert not any("Not the same" in note or "One seed" in note for note in notes(IR=(0, 1), EMMA=(0, 1)))
    assert TRAININGS in notes(IR=(0, 1), EMMA=(0, 1))
    assert table_of([make("IR"), make("EMMA")]).notes == (), "nothing was trained"


def fused(runs, row, method, checkpoint=None, ids=("1",), **settings):
    manifest = Manifest("Mine", "/data", {"method": method, "checkpoint_sha256": checkpoint, **settings})
    for name in ids:
        line = Row("test", name, "ir.png", "vi.png", "a", "b", "c")
        manifest.rows[line.key] = line
    write_manifest(runs / "fused" / "Mine" / row, manifest)


@pytest.mark.parametrize(
    ("now", "noted"),
    [
        ({"method": "mean"}, True),
        ({"method": "EMMA", "checkpoint": "other"}, True),
        ({"method": "EMMA", "checkpoint": "w", "ids": ("1", "2")}, False),  # pairs were added
        ({"method": "EMMA", "checkpoint": "w", "range": "sigmoid", "tile": None, "precision": "fp32"}, False),
        ({"method": "EMMA", "checkpoint": "w", "range": "stretch"}, True),
        ({"method": "EMMA", "checkpoint": "w", "colour": "none"}, True),
        (None, False),
    ],
)
def test_images_that_were_replaced_since_are_said(tmp_path, now, noted):
    save(tmp_path, make("X", source={"method": "EMMA", "checkpoint_sha256": "w", "manifest_sha256": "m"}), make("IR"))
    if now:
        fused(tmp_path, "X", **now)
        fused(tmp_path, "IR", "max")  # a folder of that name is not what the row of the source was made of
    (table,), _ = collect_tables(tmp_path)
    said = "X: its images were fused again since, by another method, weights or settings."
    assert table.notes == ((said,) if noted else ())


def test_settings_that_make_other_images_are_said_under_the_table(tmp_path):
    save(tmp_path, make("X", source={"method": "EMMA", "range": "stretch", "tile": 512}), make("Y"))
    assert collect_tables(tmp_path)[0][0].notes == ("X: fused with range stretch, tile 512.",)


def test_images_of_a_row_that_its_task_calls_otherwise_are_found(tmp_path):
    root, runs = write_pairs(tmp_path / "mine", 1), tmp_path / "runs"
    pairs = find_pairs(folder_spec("Mine", root / "ir", root / "vi"), root)
    folder = fused_folder(runs, "Mine", "X")
    fuse_dataset(pairs, load_fuser("max"), folder)
    (row,) = fused_rows(pairs, runs)
    save(runs, make("X (pseudo-labels)", dataset="Mine-pseudo", source=dict(row.source)))
    assert collect_tables(runs)[0][0].notes == ()
    fuse_dataset(pairs, load_fuser("mean"), folder, overwrite=True)
    said = "X (pseudo-labels): its images were fused again since, by another method, weights or settings."
    assert collect_tables(runs)[0][0].notes == (said,)


@pytest.mark.parametrize("place", [5, None, ["a"], "../../..", "\0", "x" * 300])
def test_a_folder_of_images_that_cannot_be_stops_no_report(tmp_path, place):
    save(tmp_path, make("X", source={"method": ["max"], "checkpoint_sha256": {}, "fused": place}))
    (table,), warnings = collect_tables(tmp_path)
    assert (table.notes, warnings) == ((), [])


def test_nothing_is_no_table():
    with pytest.raises(ResultError, match="emma-tasks evaluate"):
        table_of([])


def published(**other):
    columns = (Column("EN", "bits", digits=3), Column("SCD"))
    return table_of([make("EMMA", (6.5, 1.2), columns=columns, **({"dataset": "MSRS"} | other))])


def test_rows_of_the_paper_stand_beside_ours_and_are_never_marked():
    (paper,) = published().published
    assert paper.paper.title == "Table 1"
    assert paper.paper.digits == 2
    last = paper.rows[-1]
    assert (last.name, last.cells[0].value) == ("EMMA", 6.57)
    assert cell_text(last.cells[1], 2) == "-"
    assert not any(cell.mark for row in paper.rows for cell in row.cells)
    assert any("361 pairs" in note for note in paper.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ("train",)},
        {"parts": ("test", "train")},
        {"parts": ()},
        {"dataset": "Harvard", "parts": ("MRI-CT",)},
        {"dataset": "Mine"},
        {"dataset": "MSRS-sample"},
        {"comparable": False},
    ],
)
def test_rows_of_the_paper_stay_away_from_what_they_do_not_measure(change):
    assert published(**change).published == ()


def test_damaged_results_are_named_and_the_rest_is_shown(tmp_path):
    save(tmp_path, make("IR"))
    good = json.loads(next(tmp_path.glob("**/result.json")).read_text())
    damaged = {
        "cut": '{"schema": 1,',
        "list": "[]",
        "schema": json.dumps(good | {"schema": 99}),
        "title": json.dumps(good | {"title": 5}),
        "recipe": json.dumps(good | {"recipe": None}),
        "digits": json.dumps(good | {"columns": [{"name": "EN", "digits": 2.0}]}),
    }
    for name, text in damaged.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    tables, warnings = collect_tables(tmp_path)
    assert [row.name for table in tables for row in table.rows] == ["IR"]
    assert len(warnings) == len(damaged)
    assert all("\n" not in warning and "result.json" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(1.005), "1.00"),
        (Cell(2.0, 0.126), "2.00 ± 0.13"),
        (Cell(math.nan), "-"),
        (Cell(math.inf), "-"),
    ],
)
def test_cells(cell, expected):
    assert cell_text(cell, 2) == expected


def test_names_become_one_printable_line():
    assert plain("a\n b\x1b[31m\u202e\ud800") == "a b\ufffd[31m\ufffd\ufffd"
