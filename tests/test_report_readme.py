"""The results in the README and in docs/results.md: written by a script from results/, and never stale."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPOSITORY, tree

from emma_core.comparisons import Comparison, write_comparisons
from emma_core.images import write_atomic
from emma_core.results import Column, Result, result_folder, write_result

FILES = ("README.md", "docs/results.md")
MARKERS = "<!-- results:begin -->\n<!-- results:end -->"


def script(place, *options):
    command = [sys.executable, str(REPOSITORY / "scripts" / "update_readme.py"), *options]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture
def place(tmp_path):
    for file in FILES:
        write_atomic(tmp_path / file, f"# Title\n\n{MARKERS}\n\nThe end.\n".encode())
    return tmp_path


def write_rows(runs, figure=60.0):
    columns = (Column("EN", "bits"), Column("SD", "grey levels"))
    for row, value in {"IR": 50.0, "EMMA": figure}.items():
        values = {"EN": value / 10, "SD": value}
        given = {"task": "evaluate", "title": "Fusion quality", "dataset": "MSRS", "split": "test", "split_hash": "h"}
        result = Result(**given, count=361, parts=("test",), row=row, columns=columns, values=values)
        write_result(result_folder(runs, "evaluate", "MSRS", "test", row), result)
    said = Comparison(result.table_key, "EMMA", "IR", "SD", figure - 50, 8.0, 12.0, 361, better="has more contrast")
    write_comparisons(runs / "evaluate" / "MSRS" / "test", [said])


def test_this_repository_is_up_to_date():
    done = script(REPOSITORY, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_results_come_between_the_markers_and_nothing_else_changes(place):
    write_rows(place / "results")
    assert script(place).stdout.splitlines() == [f"{file}: updated" for file in FILES]
    readme, whole = ((place / file).read_text("utf-8") for file in FILES)
    for text in (readme, whole):
        assert text.startswith("# Title\n\n<!-- results:begin -->\n\n")
        assert text.endswith("\n\n<!-- results:end -->\n\nThe end.\n")
        assert "| EMMA | **6.00** | **60.00** |" in text
        assert "EMMA has more contrast than IR: SD +10.0 (95 % interval +8.0 to +12.0, 361 images)." in text
    assert ("DIDFuse" in readme, "DIDFuse" in whole) == (False, True)
    assert "| EMMA (paper) | 6.57 | 43.70 |" in readme
    assert "`results/evaluate/MSRS/test`" in readme


def test_the_readme_has_the_largest_table_of_a_data_set_and_the_other_file_has_all(place):
    write_rows(place / "results")
    part = {"task": "evaluate", "title": "Fusion quality", "dataset": "MSRS", "split": "night", "split_hash": "n"}
    columns, values = (Column("EN", "bits"),), {"EN": 3.0}
    result = Result(**part, count=179, parts=("test",), row="IR", columns=columns, values=values)
    write_result(result_folder(place / "results", "evaluate", "MSRS", "night", "IR"), result)
    script(place)
    readme, whole = ((place / file).read_text("utf-8") for file in FILES)
    assert ("MSRS night" in readme, "MSRS night" in whole) == (False, True)


def test_a_stale_file_is_named_and_left_as_it_is(place):
    write_rows(place / "results")
    script(place)
    assert script(place, "--check").returncode == 0
    write_rows(place / "results", figure=70.0)
    before = tree(place)
    done = script(place, "--check")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(FILES)
    assert tree(place) == before


def test_without_results_the_section_says_so(place):
    assert script(place, "--check").returncode == 1
    script(place)
    assert "No results are in `results` yet." in (place / "README.md").read_text()
    assert script(place, "--check").returncode == 0


@pytest.mark.parametrize("text", ["", MARKERS * 2, "<!-- results:end --><!-- results:begin -->"])
def test_a_file_without_its_markers_is_an_error(place, text):
    (place / "docs" / "results.md").write_text(text)
    before = tree(place)
    done = script(place)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: docs/results.md: expected one line <!-- results:begin -->")
    assert tree(place) == before


def test_a_damaged_result_is_an_error(place):
    write_atomic(place / "results" / "evaluate" / "result.json", b"{")
    done = script(place)
    assert (done.returncode, "result.json" in done.stderr) == (1, True)
