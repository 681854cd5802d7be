"""Tables: what goes together, what is marked, and what hostile or damaged input does."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from emma_core.comparisons import Comparison
from emma_core.errors import ResultError
from emma_core.manifest import Manifest, Row, write_manifest
from emma_core.report.figure import plot_of
from emma_core.report.formats import to_csv, to_latex, to_markdown, to_short_markdown
from emma_core.report.parts import Cell, cell_text, plain
from emma_core.report.tables import collect_tables, row_order, table_of
from emma_core.results import Column, Result, result_folder, write_result

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


def test_order_follows_the_labels_of_the_data_set():
    assert row_order("other", "Harvard", baseline=True) < row_order("MRI", "Harvard", baseline=True)
    assert row_order("MRI", "Harvard", baseline=True) < row_order("mean", "Harvard", baseline=True)


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
    assert not noted({"manifest_sha256": "a"}, one), "an earlier version wrote no hash of the images"
    assert noted({"manifest_sha256": "b"}, one)


def test_seeds_that_rows_do_not_share_are_said():
    def notes(**seeds):
        return table_of([make(row, seed=seed) for row, some in seeds.items() for seed in some]).notes

    unequal = notes(IR=(0, 1), EMMA=(3,))
    assert "Not the same seeds (IR: 0, 1; EMMA: 3): a difference may be that of the seeds." in unequal
    assert "EMMA: one seed: intervals are over images only, not over trainings." in unequal
    assert notes(IR=(0,), EMMA=(0,)) == ("One seed: intervals are over images only, not over trainings.",)
    assert not any("Not the same" in note or "One seed" in note for note in notes(IR=(0, 1), EMMA=(0, 1)))
    assert table_of([make("IR"), make("EMMA")]).notes == (), "nothing was trained"


def fused(runs, row, method, checkpoint=None, ids=("1",)):
    manifest = Manifest("Mine", "/data", {"method": method, "checkpoint_sha256": checkpoint})
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
        (None, False),
    ],
)
def test_images_that_were_replaced_since_are_said(tmp_path, now, noted):
    save(tmp_path, make("X", source={"method": "EMMA", "checkpoint_sha256": "w", "manifest_sha256": "m"}), make("IR"))
    if now:
        fused(tmp_path, "X", **now)
        fused(tmp_path, "IR", "max")  # a folder of that name is not what the row of the source was made of
    (table,), _ = collect_tables(tmp_path)
    said = "X: its images were fused again since, by other weights or another method."
    assert table.notes == ((said,) if noted else ())


def test_a_deviation_over_images_stands_in_the_csv_where_there_is_one_run():
    rows = [make("IR", deviation={"EN": 0.25}), make("EMMA", seed=0, deviation={"EN": 0.5})]
    lines = list(csv.DictReader(io.StringIO(to_csv([table_of([*rows, make("EMMA", seed=1)])]))))
    assert [line["EN [bits] over images"] for line in lines] == ["0.25", ""]
    assert [line["Loss over images"] for line in lines] == ["", ""]


def test_every_format_says_what_was_run():
    recipe = {"recipe": "quick", "epochs": 30, "weights": f"a.pt {'0123456789abcdef' * 4}", "labels": "ab" * 32}
    results = [make(row, recipe=recipe, seed=seed) for row in ("IR", "EMMA") for seed in (1, 0)]
    table = table_of(results, [f"a/{place}/result.json" for place in "1234"])
    said = "Recipe: quick, epochs 30, weights a.pt 0123456789ab. Seeds: 0, 1."
    assert said in to_markdown(table)
    assert said in to_short_markdown(table, "results")
    assert said.replace(" Seeds", "\n\\par\\footnotesize Seeds") in to_latex(table)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table.to_console())
    assert said in " ".join(console.export_text().split())
    (line, _) = csv.DictReader(io.StringIO(to_csv([table])))
    assert line["recipe"] == f"recipe quick, epochs 30, weights a.pt 0123456789ab, labels {'ab' * 6}"
    assert (line["recipe_hash"], line["seeds"]) == (table.key[3], "0 1")
    assert "Recipe" not in to_markdown(table_of([make("IR")]))


def test_many_differences_are_a_table_in_markdown():
    table = table_of([make("IR"), make("VI"), make("a|b")])
    said = [
        Comparison(table.key, "a|b", against, name, 1.0, low, 2.0, 3, "bits" * (name == "EN"), 2)
        for against, low in (("IR", 0.5), ("VI", -0.5))
        for name in ("EN", *"cdefghi")
    ]
    said[-1] = replace(said[-1], low=math.nan)
    few, many = (to_markdown(replace(table, comparisons=tuple(some))) for some in (said[:12], said))
    assert few.count("95 % interval ") == 12
    lines = [line for line in many.splitlines() if line.startswith("| a\\|b ")]
    assert lines[1].startswith("| a\\|b \N{MINUS SIGN} IR | **+1.00** (+0.50 to +2.00) |")
    assert lines[2].startswith("| a\\|b \N{MINUS SIGN} VI | +1.00 (-0.50 to +2.00) |")
    assert lines[2].endswith(" | - |")
    assert "|  | EN \\[bits\\] | c | d |" in many


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


HOSTILE = r"<b>|*_#&%$~^\{x}"


def hostile_table():
    columns = (Column("A|B_1", "%"), LOSS)
    rows = [make(HOSTILE, (2.0, 2.0), columns=columns), make("=1+1", (1.0, math.nan), columns=columns)]
    return table_of([replace(row, title=HOSTILE, notes=(HOSTILE,)) for row in rows])


def test_markdown():
    text = to_markdown(published())
    assert "| EMMA | 6.500 | 1.20 |" in text
    assert "| EMMA (paper) | 6.57 | - |" in text
    marked = to_markdown(table_of([make("a", (1.0, 1.0)), make("b", (2.0, 2.0))]))
    assert "| a | *1.00* | **1.00** |" in marked
    assert "| EN \\[bits\\] ↑ | Loss ↓ |" in marked


def test_markdown_escapes():
    text = to_markdown(hostile_table())
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}


def test_latex():
    text = to_latex(table_of([make("IR", (1.0, 1.0), baseline=True), make("b", (2.0, 2.0))]))
    assert "IR & \\underline{1.00} & \\textbf{1.00} \\\\\n\\midrule\nb & \\textbf{2.00}" in text
    assert "EN [bits] $\\uparrow$ & Loss $\\downarrow$" in text
    assert text.count("\\midrule") == 2
    assert text.index("\\toprule") < text.index("\\bottomrule")


def test_latex_escapes():
    text = to_latex(hostile_table())
    name = r"\textless{}b\textgreater{}\textbar{}*\_\#\&\%\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{x\}"
    assert name in text
    assert "\n{}[1mm] & " in to_latex(table_of([make("[1mm]")]))
    assert "A\\textbar{}B\\_1 [\\%] $\\uparrow$" in text


def test_csv_has_full_precision_and_says_whose_row_it_is():
    table = replace(published(), title="Quality, all")
    lines = list(csv.DictReader(io.StringIO(to_csv([table, hostile_table()]))))
    assert [line["row"] for line in lines if line["source"] == "ours"] == ["EMMA", HOSTILE, "'=1+1"]
    ours, paper = lines[0], lines[8]
    assert ours["title"] == "Quality, all"
    assert float(ours["EN [bits]"]) == 6.5
    assert (paper["source"], paper["row"], paper["EN [bits]"], paper["SCD"]) == ("Table 1", "EMMA", "6.57", "")
    assert (paper["split_hash"], paper["images"]) == ("", "")
    precise = to_csv([table_of([make("a", (1 / 3, math.nan))])])
    assert "0.3333333333333333,,,," in precise


def test_console():
    table = table_of([make("IR", (1.0, 1.0), baseline=True), make("[red]b", (2.0, 2.0)), make("c", (0.0, 9.0))])
    console = Console(width=60, file=io.StringIO(), record=True, force_terminal=True, legacy_windows=False)
    console.print(table.to_console())
    console.print(published().to_console())
    styled, text = console.export_text(styles=True, clear=False), console.export_text()
    assert "[red]b" in text
    assert "Table 1:" in text
    assert "\x1b[1m2.00\x1b[0m" in styled
    assert "\x1b[4m1.00\x1b[0m" in styled
    assert "Units: EN bits" in text


def test_ten_columns_fit_a_terminal_of_80_characters():
    columns = tuple(Column(name, "bits") for name in ["EN", "SD", "SF", "AG", "MI", "VIF", "Qabf", "SCD", "CC", "SSIM"])
    values = (6.57, 43.70, 11.24, 3.55, 2.86, 0.90, 0.59, 1.48, 0.66, 0.98)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table_of([make("laplacian", values, columns=columns)]).to_console())
    text = console.export_text()
    assert " ".join(f"{value:.2f}" for value in values) in " ".join(text.split())
