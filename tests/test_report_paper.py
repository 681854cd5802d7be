"""Beside our figures: the paper's, what tasks compared, plots, and what has not been run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from emma_core.comparisons import COMPARISONS, Comparison, write_comparisons
from emma_core.images import write_atomic
from emma_core.report.figure import forests_of, plot_of
from emma_core.report.formats import to_latex, to_markdown, to_short_markdown
from emma_core.report.missing import missing_tables
from emma_core.report.paper import paper_table, paper_tables
from emma_core.report.tables import collect_tables, table_of
from emma_core.results import Column, Result, result_folder, write_result

CLASSES = ("Bus", "Car", "Lamp", "Motorcycle", "People", "Truck", "mAP@0.5")
DETECTION = {"task": "detect", "title": "Object detection", "dataset": "M3FD", "split": "paper", "count": 420}


def make(row, figures, *, columns=None, **other):
    columns = columns or tuple(Column(name, "%", digits=1) for name in CLASSES)
    values = dict(zip([column.name for column in columns], figures, strict=True))
    given = {**DETECTION, "split_hash": "h", "parts": ("all",), "baseline": row in {"IR", "VI", "max"}} | other
    return Result(**given, row=row, columns=columns, values=values)


def rows(names=("IR", "VI", "EMMA"), **other):
    return [make(name, [50.0 + 10 * place] * len(CLASSES), **other) for place, name in enumerate(names)]


def save(runs, results):
    for result in results:
        write_result(result_folder(runs, result.task, result.dataset, result.split, result.row, result.seed), result)
    return runs / results[0].task / results[0].dataset / results[0].split


def compare(results, row="EMMA", against="VI", difference=10.0, half=4.0, **other):
    given = {"unit": "points", "images": 420, "better": "finds more objects", "worse": "finds fewer objects"} | other
    ends = difference, difference - half, difference + half
    return Comparison(results[0].table_key, row, against, given.pop("column", "mAP@0.5"), *ends, **given)


# The paper's figures


@pytest.mark.data
def test_the_figures_are_those_that_were_copied_from_the_paper(data):
    copied = json.loads((data.parent / "paper" / "tables.json").read_text("utf-8"))
    parts = {f"evaluate/{name}": (copied["table1_fusion"][name], 0) for name in ("MSRS", "M3FD", "RoadScene", "TNO")}
    parts["ablation/MSRS"] = copied["table2_ablation_MSRS"], 4
    parts["detect/M3FD"] = copied["table3_detection_M3FD_AP50"], 0
    parts["segment/MSRS"] = copied["table4_segmentation_MSRS_IoU"], 0
    parts["medical/Harvard"] = copied["table5_medical_Harvard"], 0
    assert {paper.key for paper in paper_tables()} == set(parts)
    for paper in paper_tables():
        block, skip = parts[paper.key]
        columns = block.get("columns") or copied["table1_fusion"]["columns"]
        assert list(paper.columns) == columns[skip:], paper.key
        names = {name: name if name in block else name.removeprefix("Exp. ") for name in paper.rows}
        assert {name: list(figures) for name, figures in paper.rows.items()} == {
            name: block[names[name]][skip:] for name in names
        }, paper.key


def test_tables_stand_in_the_order_of_the_paper_with_figures_for_every_column():
    titles = [paper.title for paper in paper_tables()]
    assert titles == sorted(titles)
    assert list(dict.fromkeys(titles)) == [f"Table {number}" for number in range(1, 6)]
    for paper in paper_tables():
        assert {len(figures) for figures in paper.rows.values()} == {len(paper.columns)}
        assert "EMMA" in paper.rows
        assert paper.steps or paper.by_hand


def test_table_5_stands_beside_the_medical_task_and_beside_plain_scores():
    assert paper_table("evaluate", "Harvard") == paper_table("medical", "Harvard")
    assert paper_table("hotspots", "Harvard") is None


def test_detection_stands_beside_table_3_and_says_what_cannot_be_compared():
    (published,) = table_of(rows()).published
    assert (published.paper.title, published.rows[-1].cells[-1].value) == ("Table 3", 82.9)
    assert any("not absolute values" in note for note in published.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "M3FD-sample"},
        {"dataset": "Mine"},
        {"comparable": False},
    ],
)
def test_samples_and_what_its_task_calls_another_thing_do_not_stand_beside_the_paper(change):
    assert table_of(rows(**change)).published == ()


def test_the_name_of_a_table_does_not_decide_what_stands_beside_it():
    assert table_of(rows(title="Not pseudo", recipe={"labels": "pseudonyms"})).published
    mixed = [*rows(("IR",)), *rows(("EMMA",), comparable=False)]
    assert table_of(mixed).published == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "scene"}, "Not the paper's split: ours is scene."),
        ({"recipe": {"recipe": "quick"}}, "Not the paper's recipe: ours is quick."),
        ({"recipe": {"name": "paper, changed"}}, "Not the paper's recipe: ours is paper, changed."),
        ({"recipe": {"recipe": "paper"}}, None),
    ],
)
def test_another_split_or_recipe_than_the_papers_is_said(change, said):
    notes = [note for note in table_of(rows(**change)).published[0].notes if note.startswith("Not the")]
    assert notes == ([said] if said else [])


def test_rows_that_were_not_run_have_no_figures_and_a_command(tmp_path):
    save(tmp_path, rows(("IR", "max"), recipe={"recipe": "quick"}))
    (table,), _ = collect_tables(tmp_path)
    assert [row.name for row in table.rows] == ["IR", "VI", "max", "EMMA"]
    assert "| VI | - | - |" in to_markdown(table)
    assert "EMMA & - & - &" in to_latex(table)
    assert (
        "VI, EMMA: not run; run with emma-tasks fuse-dataset M3FD --root DIR/M3FD and emma-tasks detect --root "
        "DIR/M3FD, and the options that the other rows were run with." in table.notes
    )
    assert table.recipe == {"recipe": "quick"}
    assert "DIDFuse" in to_markdown(table)
    assert missing_tables([table])[0].paper.key == "evaluate/MSRS"
    assert {entry.paper.key: entry.rows for entry in missing_tables([table])}["detect/M3FD"] == ("VI", "EMMA")


def test_the_command_for_a_source_fuses_nothing_and_a_whole_table_has_no_empty_row(tmp_path):
    save(tmp_path, rows(("IR", "EMMA")))
    (table,), _ = collect_tables(tmp_path)
    (note,) = [note for note in table.notes if "not run" in note]
    assert note.startswith("VI: not run; run with emma-tasks detect --root DIR/M3FD, and")
    save(tmp_path, rows(("VI",)))
    save(tmp_path, rows(("IR",), dataset="Mine"))
    whole, foreign = collect_tables(tmp_path)[0]
    assert ([row.name for row in whole.rows], whole.notes) == (["IR", "VI", "EMMA"], ())
    assert [row.name for row in foreign.rows] == ["IR"]


def test_another_number_of_images_is_said():
    assert not any("images: ours" in note for note in table_of(rows()).published[0].notes)
    notes = table_of(rows(count=13)).published[0].notes
    assert "Not the same images: ours are 13, the paper's 420." in notes
    told = {"task": "evaluate", "dataset": "RoadScene", "split": "all", "count": 1}
    entropy = [make(row, [6.0], columns=(Column("EN", "bits"),), **told) for row in ("IR", "VI", "EMMA")]
    notes = table_of(entropy).published[0].notes
    assert "Perhaps not the same images: ours are 1, the paper's are on no list." in notes


def test_networks_that_lack_a_part_stand_beside_table_2_as_well():
    columns = (Column("EN", "bits"), Column("SD", "grey levels"))
    other = {"task": "evaluate", "dataset": "MSRS", "split": "test", "parts": ("test",), "columns": columns}
    plain, ablated = make("EMMA", (6.5, 40.0), **other), make("ablation-IV", (6.4, 39.0), **other)
    assert [published.paper.title for published in table_of([plain]).published] == ["Table 1"]
    table = table_of([plain, ablated])
    assert [published.paper.title for published in table.published] == ["Table 1", "Table 2"]
    text = to_markdown(table)
    assert "| Exp. IV (Table 2) | 6.45 | 39.37 |" in text
    assert "| DIDFuse (Table 1) | 4.27 | 31.49 |" in text


# What tasks compared


def test_differences_are_said_under_their_table_everywhere(tmp_path):
    results = rows()
    folder = save(tmp_path, results)
    write_comparisons(folder, [compare(results), compare(results, against="IR", difference=1.0)])
    ((table,), warnings) = collect_tables(tmp_path)
    assert warnings == []
    said = "EMMA finds more objects than VI: mAP@0.5 +10.0 points (95 % interval +6.0 to +14.0, 420 images)."
    assert said in to_markdown(table)
    assert said.replace("%", "\\%") in to_latex(table)
    assert "- EMMA and IR cannot be told apart: " in to_markdown(table)


@pytest.mark.parametrize(
    "change", [{"table_key": ("detect", "M3FD", "other", "r")}, {"row": "guided"}, {"against": "mean"}]
)
def test_what_was_said_of_other_results_is_not_shown(tmp_path, change):
    results = rows()
    write_comparisons(save(tmp_path, results), [replace(compare(results), **change)])
    assert collect_tables(tmp_path)[0][0].comparisons == ()


def test_what_lies_beside_other_results_is_not_shown(tmp_path):
    results = rows()
    save(tmp_path, results)
    write_comparisons(save(tmp_path, rows(split="scene")), [compare(results)])
    shown = {table.split: len(table.comparisons) for table in collect_tables(tmp_path)[0]}
    assert shown == {"paper": 0, "scene": 1}


def test_damaged_comparisons_are_named_and_the_table_is_shown(tmp_path):
    write_atomic(save(tmp_path, rows()) / COMPARISONS, b"{")
    (table,), (warning,) = collect_tables(tmp_path)
    assert (len(table.rows), table.comparisons) == (3, ())
    assert COMPARISONS in warning


# Plots


def test_classes_are_bars_from_zero_on_one_scale():
    plot = plot_of(table_of(rows()))
    assert plot.bars
    assert plot.scale == "All scales run from 0 to 93.5 %."  # the paper's EMMA, on cars
    bus, car = plot.panels[:2]
    assert [(dot.name, dot.kind) for dot in bus.dots] == [
        ("IR", "infrared"),
        ("VI", "visible"),
        ("EMMA", "fused"),
        ("EMMA (paper)", "paper"),
    ]
    assert [dot.at for dot in bus.dots] == [round(100 * value / 93.5, 2) for value in (50.0, 60.0, 70.0, 83.2)]
    assert car.dots[-1].at == 100.0


@pytest.mark.parametrize(
    "columns",
    [
        tuple(Column(name, unit) for name, unit in zip("abcd", ("%", "%", "%", "bits"), strict=True)),
        tuple(Column(name, "") for name in "abcd"),
        tuple(Column(name, "%", higher_is_better=name != "a") for name in "abcd"),
        tuple(Column(name, "%") for name in "abc"),
    ],
)
def test_figures_of_other_kinds_are_dots_on_scales_of_their_own(columns):
    table = table_of([make(row, [float(place)] * len(columns), columns=columns) for place, row in enumerate("xy")])
    plot = plot_of(table)
    assert not plot.bars
    assert [[dot.at for dot in panel.dots] for panel in plot.panels] == [[8.0, 92.0]] * len(columns)


def test_columns_that_are_all_zero_have_bars_of_no_length():
    (panel, *_) = plot_of(table_of([make(row, [0.0] * len(CLASSES), dataset="Mine") for row in ("IR", "VI")])).panels
    assert [dot.at for dot in panel.dots] == [0.0, 0.0]


def test_a_forest_plot_holds_zero_and_says_what_is_sure():
    results = rows(("IR", "VI", "max", "EMMA"))
    table = table_of(results)
    said = [
        compare(results, difference=6.0, half=2.0),
        compare(results, against="IR", difference=-4.0, half=2.0),
        compare(results, against="max", difference=1.0, half=2.0),
        compare(results, column="Car", difference=float("nan")),
    ]
    (forest,) = forests_of(replace(table, comparisons=tuple(said)))
    assert forest.heading == "mAP@0.5 ↑ [points]"
    assert [line.kind for line in forest.lines] == ["better", "worse", "unsure"]
    assert [line.text for line in forest.lines] == ["+6.0", "-4.0", "+1.0"]
    # -6 to +8 on the 84 % between the margins: 6 % a point
    assert forest.zero == 8 + 6 * 6
    assert [(line.low, line.at, line.low + line.width) for line in forest.lines] == [
        (68.0, 80.0, 92.0),
        (8.0, 20.0, 32.0),
        (38.0, 50.0, 62.0),
    ]


def test_less_can_be_better():
    columns = (Column("Misses", "%", higher_is_better=False),)
    results = [make(row, (1.0,), columns=columns) for row in ("IR", "EMMA")]
    less = compare(results, against="IR", column="Misses", difference=-5.0, half=1.0)
    (forest,) = forests_of(replace(table_of(results), comparisons=(less,)))
    assert forest.lines[0].kind == "better"
    assert forest.zero == 92.0, "an interval that does not reach zero is drawn up to it"


# Short, and missing


def test_a_readme_gets_rows_with_a_counterpart_and_few_sentences(tmp_path):
    results = rows()
    folder = save(tmp_path, results)
    write_comparisons(folder, [compare(results, column=name) for name in CLASSES])
    ((table,), _) = collect_tables(tmp_path)
    text = to_short_markdown(table, "results")
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert names == ["", "IR", "VI", "EMMA", "IR (paper)", "VI (paper)", "EMMA (paper)"]
    assert "| mAP@0.5 ↑ |" in text, "the common unit is said once"
    assert text.count("All figures in %.") == 1
    assert [line for line in text.splitlines() if line.startswith("- ")][-1] == "- And 3 more, in the files."
    assert text.endswith("Files: `results/detect/M3FD/paper`\n")


def test_what_was_not_run_is_listed_with_its_commands():
    missing = missing_tables([])
    assert [entry.paper.key for entry in missing] == [paper.key for paper in paper_tables()]
    detect = next(entry for entry in missing if entry.paper.key == "detect/M3FD")
    assert detect.what == "detect, M3FD: not run"
    assert detect.commands == (
        "emma-tasks fuse-dataset M3FD --root DIR/M3FD",
        "emma-tasks detect --root DIR/M3FD --seeds 0,1,2",
    )


def test_a_row_that_was_not_run_is_named_and_a_whole_table_is_not():
    def state(tables):
        return {entry.paper.key: entry.what for entry in missing_tables(tables)}.get("detect/M3FD")

    assert state([table_of(rows(("IR", "guided")))]) == "detect, M3FD: no row VI, EMMA yet"
    assert state([table_of(rows(("IR", "guided"))), table_of(rows(("IR", "VI"), split="b"))]).endswith("row EMMA yet")
    assert state([table_of(rows())]) is None
    assert state([table_of(rows(dataset="M3FD-sample"))]) == "detect, M3FD: not run"
