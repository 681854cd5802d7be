"""Every figure and every interval on the page stands in a file that the page links to, as the page prints it."""

from __future__ import annotations

import html
import json
import math
import re
import statistics
from collections import Counter
from urllib.parse import unquote

import pytest

from emma_core.comparisons import Comparison, write_comparisons
from emma_core.report.page import write_report
from emma_core.report.paper import paper_tables
from emma_core.results import Column, Result, result_folder, table_folder, write_result

CLASSES = ("Car", "Person", "a & <b>")


def text_of(markup):
    """Return what a reader sees of a piece of the page, on one line."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", markup)).split())


def parts(markup, pattern):
    return re.findall(pattern, markup, re.DOTALL)


def linked(page, number):
    """Read the files behind a table: the results of each row, and the differences."""
    ((listed,),) = [parts(page, rf'<h3 id="from-{number}">.*?<table class="files">(.*?)</table>')]
    found = {}
    for name, address in parts(listed, r'<tr><th scope="row">(.*?)</th>.*?href="(.*?)"'):
        found.setdefault(text_of(name), []).append(unquote(html.unescape(address)))
    return found


def spelled(results, column):
    """Spell a figure of a row out of its files: the mean over its seeds, or of one run, and a deviation."""
    values = [result["values"][column["name"]] for result in results]
    places = column["digits"]
    if None in values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else results[0]["deviation"].get(column["name"])
    small = "" if spread is None else f" ± {spread:.{places}f}"
    return f"{statistics.mean(values):.{places}f}{small}"


def trace_figures(article, files, folder):
    """Find every figure of a table in its files, or in the paper's; return how many there are."""
    count = 0
    ours, *paper = article.split('<tbody class="paper">')
    for name, cells in parts(ours.partition("<tbody>")[2], r'<tr><th scope="row">(.*?)</th>(.*?)</tr>'):
        results = [json.loads((folder / file).read_text()) for file in files.get(text_of(name), [])]
        shown = [text_of(cell) for cell in parts(cells, "<td>(.*?)</td>")]
        expected = [spelled(results, column) for column in results[0]["columns"]] if results else ["-"] * len(shown)
        assert shown == expected, name
        count += len(shown)
    label = html.unescape(re.search('aria-label="(.*?)"', article)[1])
    for block in paper:
        title = text_of(block.partition("</tr>")[0]).removesuffix(" of the paper")
        (printed,) = [table for table in paper_tables() if table.title == title and f": {table.dataset} " in label]
        for name, cells in parts(block.partition("</table>")[0], r'<tr><th scope="row">(.*?)</th>(.*?)</tr>'):
            shown = [text_of(cell) for cell in parts(cells, "<td>(.*?)</td>") if text_of(cell) != "-"]
            assert {float(figure) for figure in shown} <= set(printed.rows[text_of(name)]), name
            count += len(shown)
    return count


def trace_differences(article, files, folder):
    """Find every interval, in words and in the plot, in the files of differences; return how many there are."""
    paths = [folder / file for file in files.get("Differences", [])]
    told, untold, expected = [], {}, []
    for each in [each for path in paths for each in json.loads(path.read_text())["comparisons"]]:
        row, against, column, places = (each[key] for key in ("row", "against", "column", "digits"))
        if None in (each["difference"], each["low"], each["high"]):
            untold.setdefault((row, against), []).append(column)
            continue
        figure = f"{each['difference']:+z.{places}f}"
        low, high = (f"{each[key]:+.{places}f}" for key in ("low", "high"))
        unit = f" {each['unit']}" if each["unit"] else ""
        expected.append((column, f"{row} \N{MINUS SIGN} {against}", figure, f"{low} to {high}"))
        interval = f"(95 % interval {low} to {high}, {each['images']} images)"
        told.append((row, against, f": {column} {figure}{unit} {interval}."))
    if untold and not told:
        told = [("", "", ": too few to tell rows from each other; 10 at least are needed.")]
    elif untold:
        told += [(*rows, f"): too few images to tell in {', '.join(columns)}.") for rows, columns in untold.items()]
    assert Counter(intervals_drawn(article)) == Counter(expected)
    lists = parts(article, '<ul class="said">(.*?)</ul>')
    sentences = [text_of(item) for block in lists for item in parts(block, "<li>(.*?)</li>")]
    assert len(sentences) == len(told)
    for row, against, end in told:
        beginnings = [sentence.removesuffix(end) for sentence in sentences if sentence.endswith(end)]
        assert any(text.startswith(row) and against in text.removeprefix(row) for text in beginnings), end
    return len(expected)


def intervals_drawn(article):
    """List the lines of the forest plots of a table: column, rows, difference, interval."""
    plot = article.partition('<figure class="forest">')[2].partition("</figure>")[0]
    for panel in parts(plot, "<h4>.*?(?=<h4>|$)"):
        column = text_of(parts(panel, "<h4>(.*?)</h4>")[0]).partition(" \N{UPWARDS ARROW}")[0]
        for line in parts(panel, '<div class="line".*?</div>'):
            names = text_of(parts(line, r'<span class="name">(.*?)<span class="track"')[0])
            figures = parts(line, r'<span class="(?:figure|interval)">(.*?)</span>')
            yield (column, names, *map(text_of, figures))


def trace(path):
    """Trace a page; return the numbers of its figures and of its intervals."""
    page = path.read_text()
    figures = intervals = 0
    for number, article in parts(page, r'<article class="results" id="table-(\d+)">(.*?)</article>'):
        files = linked(page, number)
        figures += trace_figures(article, files, path.parent)
        intervals += trace_differences(article, files, path.parent)
    return figures, intervals


def write_table(runs, rows, columns, *, deviation=False, seeds=(None,), **given):
    """Write results whose figures are all different, and the differences of the last row from every other."""
    given = {"title": "Quality", "split": "test", "split_hash": "h", "count": 4, "parts": ("test",)} | given
    results, figure = [], 1.0
    for row in rows:
        for seed in seeds:
            figure *= 1.37
            values = {column.name: figure + 0.1234 * place for place, column in enumerate(columns)}
            spread = {name: value / 7 for name, value in values.items()} if deviation else {}
            result = Result(**given, row=row, columns=columns, values=values, deviation=spread, seed=seed)
            write_result(result_folder(runs, given["task"], given["dataset"], given["split"], row, seed), result)
            results.append(result)
    said = [
        Comparison(result.table_key, rows[-1], row, column.name, *ends, 4, column.unit, column.digits)
        for row in rows[:-1]
        for place, column in enumerate(columns)
        for figure in [1.1 + place]
        for ends in [(figure, figure - 3.3, figure / 0.7)]
    ]
    write_comparisons(table_folder(runs, given["task"], given["dataset"], given["split"]), said)
    return said


@pytest.fixture
def runs(tmp_path):
    """A table with deviations over images beside the paper's; one over seeds without a figure or a difference."""
    folder = tmp_path / "runs #1"
    columns = tuple(Column(name, "bits" * (name == "EN")) for name in ("EN", "SD", "SCD"))
    write_table(folder, ("IR", "VI", "max", "EMMA"), columns, deviation=True, task="evaluate", dataset="MSRS")
    columns = tuple(Column(name, "%", digits=1) for name in CLASSES)
    said = write_table(folder, ("IR", "a & <b>"), columns, seeds=(0, 1, 2), task="segment", dataset="<Mine>")
    place = table_folder(folder, "segment", "<Mine>", "test")
    write_comparisons(place, [*said[:-1], Comparison(**(vars(said[-1]) | {"low": math.nan}))])
    lost = place / "IR" / "seed1" / "result.json"
    content = json.loads(lost.read_text())
    lost.write_text(json.dumps(content | {"values": content["values"] | {"Car": None}}))
    return folder


def test_every_figure_and_interval_is_in_a_file_that_the_page_links_to(runs):
    page = write_report(runs).html
    # 4 rows of 3 and the paper's 8 rows of 2; 2 rows of 3 over seeds. 3 rows of 3 differences, and 2 that are defined.
    assert trace(page) == (12 + 16 + 6, 9 + 2)


@pytest.mark.parametrize("name", ["result.json", "comparisons.json"])
def test_a_page_that_is_not_of_its_files_is_noticed(runs, name):
    page = write_report(runs).html
    for path in runs.rglob(name):
        path.write_text(re.sub(r"(\d\.\d)\d*", lambda found: str(float(found[1]) + 0.5), path.read_text()))
    with pytest.raises(AssertionError):
        trace(page)
