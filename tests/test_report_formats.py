"""Tables as Markdown, LaTeX, CSV and in a terminal: what each says, and what hostile names do to it."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace

from rich.console import Console
from test_report_tables import LOSS, make, published

from emma_core.comparisons import Comparison
from emma_core.report.console import print_table, to_console
from emma_core.report.figure import forests_of
from emma_core.report.formats import latex_file, to_csv, to_latex, to_markdown, to_short_markdown
from emma_core.report.tables import table_of
from emma_core.results import Column


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
    assert said in to_latex(table)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(to_console(table))
    assert said in " ".join(console.export_text().split())
    (line, _) = csv.DictReader(io.StringIO(to_csv([table])))
    assert line["recipe"] == f"recipe quick, epochs 30, weights a.pt 0123456789ab, labels {'ab' * 6}"
    assert (line["recipe_hash"], line["seeds"]) == (table.key[3], "0 1")
    assert "Recipe" not in to_markdown(table_of([make("IR")]))


def test_every_file_that_was_read_is_named():
    rows, files = [make("IR", baseline=True), make("a_b")], ["e/M/IR/result.json", "e/M/a_b/result.json"]
    table = replace(table_of(rows, files), compared_in=("e/M/comparisons.json",))
    said = "Read from e/M: IR/result.json, a_b/result.json and comparisons.json."
    assert f"- {said}\n".replace("_", "\\_") in to_markdown(table)
    assert f"% {said}\n" in to_latex(table)
    lines = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert [line["files"] for line in lines] == files
    assert {line["comparisons"] for line in lines} == {"e/M/comparisons.json"}
    paper = [line for line in csv.DictReader(io.StringIO(to_csv([published()]))) if line["source"] != "ours"]
    assert {(line["files"], line["comparisons"]) for line in paper} == {("", "")}
    assert "Read from" not in to_markdown(table_of(rows)) + to_latex(table_of(rows))


def with_differences():
    """Return a table, and sixteen differences of a row from two others, the last of them not defined."""
    table = table_of([make("IR"), make("VI"), make("a|b")])
    said = [
        Comparison(table.key, "a|b", against, name, 1.0, low, 2.0, 3, "bits" * (name == "EN"), 2)
        for against, low in (("IR", 0.5), ("VI", -0.5))
        for name in ("EN", *"cdefghi")
    ]
    return table, [*said[:-1], replace(said[-1], low=math.nan)]


def test_many_differences_are_a_table_in_markdown():
    table, said = with_differences()
    few, many = (to_markdown(replace(table, comparisons=tuple(some))) for some in (said[:12], said))
    assert few.count("95 % interval ") == 12
    lines = [line for line in many.splitlines() if line.startswith("| a\\|b ")]
    assert lines[1].startswith("| a\\|b \N{MINUS SIGN} IR | **+1.00** (+0.50 to +2.00) |")
    assert lines[2].startswith("| a\\|b \N{MINUS SIGN} VI | +1.00 (-0.50 to +2.00) |")
    assert lines[2].endswith(" | - |")
    assert "|  | EN \\[bits\\] | c | d |" in many


def test_a_difference_that_hangs_on_rare_classes_says_so_in_every_format():
    table, said = with_differences()
    rare = replace(said[0], rare=("Bump (3)",))
    few, many = (replace(table, comparisons=tuple(some)) for some in ([rare], [rare, *said[1:]]))
    but = ", hangs on Bump (3)"
    for text in (to_markdown(few), to_latex(few)):
        assert "cannot be told apart: EN" in text
        assert "hangs on Bump (3), which fewer than 10 images show." in text
    assert f"IR | +1.00 (+0.50 to +2.00{but}) |" in to_markdown(many)
    assert f"IR & EN [bits]{but} & $+1.00$ & $+0.50$ & $+2.00$" in to_latex(many)
    (line,) = forests_of(few)[0].lines
    assert line.kind == "unsure"  # the words beside the plot say why


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
    assert "as by -{}-range stretch" in to_latex(table_of([replace(make("a"), notes=("as by --range stretch",))]))
    table = table_of([make("[1mm]"), make("IR")])
    assert "\n{}[1mm] & " in to_latex(table)
    said = replace(with_differences()[1][0], table_key=table.key, row="[1mm]")
    assert "\n\\item {}[1mm] is higher than IR" in to_latex(replace(table, comparisons=(said,)))
    assert "\n{}[1mm] $-$ IR & " in to_latex(replace(table, comparisons=(said,) * 13))
    assert "A\\textbar{}B\\_1 [\\%] $\\uparrow$" in text


def environments(text):
    """Return the environments of a LaTeX text as they begin, each with its lines; fails where one is not closed."""
    found, opened = [], []
    for line in text.splitlines():
        if begin := re.match(r"\\begin{(\w+)}", line):
            opened.append((begin[1], []))
            found.append(opened[-1])
        elif end := re.match(r"\\end{(\w+)}", line):
            assert opened.pop()[0] == end[1]
        else:
            for _, lines in opened:
                lines.append(line)
    assert opened == []
    return found


def test_differences_stand_behind_the_float_in_latex():
    """A float that is longer than a page fits none."""
    table, said = with_differences()
    notes = tuple(f"Note {number}." for number in range(20))
    few, many = (to_latex(replace(table, comparisons=tuple(some), notes=notes)) for some in (said[:12], said))
    for text, behind in ((few, "itemize"), (many, "longtable")):
        parts = environments(text)
        assert [name for name, _ in parts] == ["table", "tabular", behind]
        assert len(parts[0][1]) < 15
        assert sum("\\par" in line for line in parts[0][1]) == 1
        assert not any("interval" in line for line in parts[0][1])
    assert sum(line.startswith("\\item ") for line in environments(few)[2][1]) == 12
    lines = [line for line in environments(many)[2][1] if line.startswith("a\\textbar{}b $-$ ")]
    assert len(lines) == len(said)
    assert lines[0] == "a\\textbar{}b $-$ IR & EN [bits] & $\\mathbf{+1.00}$ & $+0.50$ & $+2.00$ \\\\"
    assert lines[8] == "a\\textbar{}b $-$ VI & EN [bits] & $+1.00$ & $-0.50$ & $+2.00$ \\\\"
    assert lines[-1] == "a\\textbar{}b $-$ VI & i & - & - & - \\\\"
    assert environments(to_latex(table_of([make("IR")])))[-1][0] == "tabular"


def test_a_latex_file_names_its_packages():
    text = latex_file([published(), hostile_table()])
    assert text.startswith("% needs \\usepackage{booktabs} and \\usepackage{longtable}\n")
    assert [name for name, _ in environments(text)] == ["table", "tabular"] * 2


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
    console.print(to_console(table))
    console.print(to_console(published()))
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
    console.print(to_console(table_of([make("laplacian", values, columns=columns)])))
    text = console.export_text()
    assert " ".join(f"{value:.2f}" for value in values) in " ".join(text.split())


def test_headings_are_whole_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    columns = [Column(name, "%") for name in ("Motorcycle", "mAP@0.5:0.95", "Precision", "Color cone")]
    print_table(table_of([make("laplacian", [99.5] * 4, columns=columns)]))
    printed = capsys.readouterr().out
    assert all(f"{column.name} " in printed for column in columns)


def test_a_printed_table_is_wider_than_a_narrow_terminal_rather_than_without_digits(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    columns = tuple(Column(f"measure {number}", "bits") for number in range(14))
    values = tuple(10.01 + number for number in range(14))
    print_table(table_of([make("laplacian", values, columns=columns)]))
    assert " ".join(f"{value:.2f}" for value in values) in " ".join(capsys.readouterr().out.split())
