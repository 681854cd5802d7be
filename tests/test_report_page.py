"""The report: what is written, and what is left out. The page in a real browser is test_report_browser.py."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from emma_core.comparisons import Comparison, write_comparisons
from emma_core.errors import ResultError
from emma_core.images import encode_png, write_atomic, write_image
from emma_core.manifest import Manifest, Row, file_sha256, write_manifest
from emma_core.pictures import INDEX, TaskPicture, pictures_folder, write_index, write_picture
from emma_core.report.albums import collect_albums
from emma_core.report.gallery import collect_galleries
from emma_core.report.page import write_report
from emma_core.report.tables import collect_tables
from emma_core.results import Column, Result, read_result, result_folder, write_result

SCRIPT = "<script>window.hacked=1"  # a file name cannot hold the slash of an end tag; a data set's name can
CLOSED = '"></script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'
SHADES = {"mean": 0.5, "max": 0.9, "EMMA": 0.7}
IDS = ("000", "001", SCRIPT, "x" * 150)


def write_fused(runs, root, dataset, method, ids, *, shape=(90, 120), shade=0.5):
    """Pretend to have fused: black infrared, white visible, and a shade for the method."""
    manifest = Manifest(dataset, str(root), {"method": method})
    for name in ids:
        for side, value in (("ir", 0.1), ("vi", 0.9)):
            if not (root / side / f"{name}.png").exists():
                write_image(root / side / f"{name}.png", np.full(shape, value, np.float32))
        data = encode_png(np.full((*shape, 3), shade - 0.1 * ids.index(name), np.float32))
        image = runs / "fused" / dataset / method / "all" / f"{name}.png"
        write_atomic(image, data)
        files = [f"{side}/{name}.png" for side in ("ir", "vi")]
        hashes = [file_sha256(path) for path in (*(root / file for file in files), image)]
        row = Row("all", name, *files, *hashes)
        manifest.rows[row.key] = row
    write_manifest(runs / "fused" / dataset / method, manifest)


def write_results(runs, dataset, rows, **other):
    columns = tuple(Column(name, "bits", title=f"what {name} says") for name in ("EN", "SD", CLOSED))
    for index, row in enumerate(rows):
        values = {column.name: 5.0 + index for column in columns}
        result = Result(
            **{
                "task": "evaluate",
                "title": "Quality",
                "split": "all",
                "split_hash": "h",
                "count": 4,
                "parts": ("test",),
            }
            | other,
            dataset=dataset,
            row=row,
            columns=columns,
            values=values,
            baseline=index < 2,
            notes=(CLOSED,),
            environment={"torch": CLOSED},
        )
        write_result(
            result_folder(runs, "evaluate", "MSRS" if dataset == "MSRS" else "other", "all", str(index)), result
        )


def write_beside(folder, group="Largest gains"):
    """Leave two pictures, a plot and a difference beside the results in a folder."""
    pictures = pictures_folder(folder)
    gains = [TaskPicture("one.png", f"First: {CLOSED}", group), TaskPicture("two.png", "Second.", group)]
    for picture, value in zip(gains, (0.2, 0.8), strict=True):
        write_picture(pictures, picture, np.full((300, 400, 3), value, np.float32))
    figure = Figure(figsize=(12, 4))
    figure.add_subplot().plot([0, 1], [1, 0])
    curve = write_picture(pictures, TaskPicture("curve.png", "Falls.", "Curves", wide=True), figure)
    write_index(pictures, [*gains, curve])
    key = read_result(next(folder.glob("**/result.json"))).table_key
    write_comparisons(folder, [Comparison(key, "EMMA", "VI", "EN", 1.0, 0.5, 1.5, 4, "bits", better=CLOSED)])


def write_everything(folder):
    """Fuse, score and draw; return the folder of runs."""
    for method, shade in SHADES.items():
        write_fused(folder / "runs", folder / "data", "MSRS", method, IDS, shade=shade)
    write_results(folder / "runs", "MSRS", ["IR", "VI", "EMMA"])
    write_results(folder / "runs", CLOSED, ["IR", "VI", CLOSED])
    write_beside(folder / "runs" / "evaluate" / "MSRS" / "all")
    return folder / "runs"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(runs):
    return write_report(runs)


def test_four_files_are_written_and_nothing_else(report, runs):
    assert report.warnings == ()
    names = {path.name for path in (runs / "report").iterdir()}
    assert names == {"index.html", "tables.md", "tables.csv", "tables.tex"}
    assert "| EMMA (paper) | 6.57 |" in report.markdown.read_text()
    assert "\\toprule" in report.latex.read_text()
    assert report.csv.read_text().startswith("task,title,dataset,split,images")


def test_the_page_holds_everything_and_asks_for_nothing(report):
    html = report.html.read_text()
    addresses = re.findall(r'\b(?:src|href)="([^"]*)"', html)
    assert any(address.startswith("data:image/webp;base64,") for address in addresses)
    assert not [address for address in addresses if not address.startswith(("data:", "#", "../"))]
    assert "default-src 'none'" in html


def test_names_from_outside_are_text(report):
    html = report.html.read_text()
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert "&lt;script&gt;window.hacked=1" in html


def test_the_same_runs_give_the_same_bytes(report, runs, tmp_path):
    again = write_report(runs, runs / "report")
    assert again.html.read_bytes() == report.html.read_bytes()
    assert write_report(runs, tmp_path / "elsewhere").html.parent == tmp_path / "elsewhere"


def test_links_lead_to_the_results(report, runs):
    links = re.findall(r'href="(\.\./[^"]*result\.json)"', report.html.read_text())
    assert len(links) == 6
    assert all((report.html.parent / link).is_file() for link in links)


def test_nothing_to_show_names_the_next_command(tmp_path):
    with pytest.raises(ResultError, match=r"emma-tasks demo, or emma-tasks fuse-dataset NAME --root DIR"):
        write_report(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_results_alone_and_images_alone_are_enough(tmp_path):
    write_results(tmp_path / "a", "Mine", ["IR", "VI", "EMMA"])
    assert "data-gallery" not in write_report(tmp_path / "a").html.read_text().split("<script>")[0]
    write_fused(tmp_path / "b", tmp_path / "data", "Mine", "max", ["1"])
    page = write_report(tmp_path / "b").html.read_text()
    assert "<table" not in page
    assert "data-gallery" in page


def test_a_damaged_result_is_mentioned_on_the_page(tmp_path):
    write_results(tmp_path, "Mine", ["IR", "VI"])
    write_atomic(tmp_path / "evaluate" / "result.json", b"{")
    report = write_report(tmp_path)
    assert len(report.warnings) == 1
    assert "1 thing could not be shown" in report.html.read_text()


def test_examples_are_spread_over_the_pairs_that_all_methods_have(tmp_path):
    ids = [f"{number:02d}" for number in range(21)]
    write_fused(tmp_path, tmp_path / "data", "Mine", "max", ids, shape=(4, 6))
    write_fused(tmp_path, tmp_path / "data", "Mine", "EMMA", ids[:-1], shape=(4, 6))
    (gallery,), warnings = collect_galleries(tmp_path, examples=3)
    assert warnings == []
    assert [example.id for example in gallery.examples] == ["00", "10", "19"]
    assert (gallery.methods, gallery.total) == (("max", "EMMA"), 20)
    assert [picture.name for picture in gallery.examples[0].pictures] == ["IR", "VI", "max", "EMMA"]


def test_pictures_are_made_small_but_never_large(tmp_path):
    write_fused(tmp_path, tmp_path / "big", "Big", "max", ["1"], shape=(600, 1000))
    write_fused(tmp_path, tmp_path / "small", "Small", "max", ["1"], shape=(1, 3))
    (big, small), _ = collect_galleries(tmp_path)
    assert {(picture.width, picture.height) for picture in big.examples[0].pictures} == {(720, 432)}
    assert {(picture.width, picture.height) for picture in small.examples[0].pictures} == {(3, 1)}


@pytest.mark.parametrize("harm", ["missing source", "changed source", "changed fused", "damaged fused", "odd path"])
def test_a_picture_that_is_not_what_was_fused_is_left_out(tmp_path, harm):
    runs, data = tmp_path / "runs", tmp_path / "data"
    write_fused(runs, data, "Mine", "max", ["1", "2"])
    source, fused = data / "ir" / "1.png", runs / "fused" / "Mine" / "max" / "all" / "1.png"
    if harm == "missing source":
        source.unlink()
    elif harm == "damaged fused":
        fused.write_bytes(fused.read_bytes()[:40])
    elif harm == "odd path":
        manifest = fused.parents[1] / "manifest.json"
        manifest.write_text(manifest.read_text().replace("ir/1.png", "ir/\\ud800"))
    else:
        write_image(source if "source" in harm else fused, np.zeros((90, 120), np.float32))
    (gallery,), (warning,) = collect_galleries(runs)
    assert [example.id for example in gallery.examples] == ["2"]
    assert warning.startswith("Mine: 1 pairs left out of the gallery, first: ")


def test_methods_run_on_different_images_are_not_compared(tmp_path):
    write_fused(tmp_path, tmp_path / "one", "Mine", "max", ["1"])
    write_fused(tmp_path, tmp_path / "two", "Mine", "mean", ["1"], shape=(8, 8))
    assert collect_galleries(tmp_path) == ([], ["Mine: no pair was fused by all of mean, max; no gallery"])


def test_sources_that_moved_are_found_by_a_later_run(tmp_path):
    write_fused(tmp_path, tmp_path / "old", "Mine", "max", ["1"])
    shutil.move(tmp_path / "old", tmp_path / "new")
    write_fused(tmp_path, tmp_path / "new", "Mine", "mean", ["1"])
    galleries, warnings = collect_galleries(tmp_path)
    assert (len(galleries), warnings) == (1, [])


def test_a_damaged_manifest_is_one_warning(tmp_path):
    write_fused(tmp_path, tmp_path / "data", "Mine", "max", ["1"])
    write_atomic(tmp_path / "fused" / "Mine" / "mean" / "manifest.json", b"[]")
    galleries, warnings = collect_galleries(tmp_path)
    assert len(galleries) == len(warnings) == 1


def test_medical_pictures_are_named_by_their_modality(tmp_path):
    write_fused(tmp_path, tmp_path / "data", "Harvard", "max", ["1"])
    manifest = tmp_path / "fused" / "Harvard" / "max" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"all"', '"MRI-PET"'))
    shutil.move(manifest.parent / "all", manifest.parent / "MRI-PET")
    (gallery,), _ = collect_galleries(tmp_path)
    assert [picture.name for picture in gallery.examples[0].pictures] == ["PET", "MRI", "max"]


# Pictures of tasks


def albums_of(runs):
    tables, _ = collect_tables(runs)
    albums, warnings = collect_albums(runs, tables)
    return {table.dataset: shown for table, shown in zip(tables, albums, strict=True)}, warnings


def test_pictures_stand_in_groups_under_their_table(runs):
    albums, warnings = albums_of(runs)
    assert warnings == []
    assert [album.heading for album in albums["MSRS"]] == ["Largest gains", "Curves"]
    gains, curves = albums["MSRS"]
    assert [shot.caption for shot in gains.shots] == [f"First: {CLOSED}", "Second."]
    assert [(shot.width, shot.height, shot.wide) for shot in gains.shots] == [(400, 300, False)] * 2
    assert (curves.shots[0].wide, curves.shots[0].width > 720) == (True, True)
    assert sum(len(shown) for shown in albums.values()) == 2


@pytest.mark.parametrize("said", [True, False])
def test_two_tables_of_one_folder_show_its_pictures_where_they_belong(tmp_path, said):
    """They are of the table that was compared last; where nothing was compared, of the fuller one."""
    folder = tmp_path / "evaluate" / "MSRS" / "all"
    write_results(tmp_path, "MSRS", ["IR", "VI", "EMMA", "VI"])
    write_beside(folder)
    for name in "0123":
        file = folder / name / "result.json"
        epochs = 3 if name in "23" or (name == "1" and not said) else 4
        file.write_text(file.read_text().replace('"recipe": {}', f'"recipe": {{"epochs": {epochs}}}'))
    compared = read_result(folder / "2" / "result.json")
    other = [Comparison(compared.table_key, "EMMA", "VI", "EN", 1.0, 0.5, 1.5, 4)]
    write_comparisons(folder, other if said else [])
    tables, _ = collect_tables(tmp_path)
    albums, _ = collect_albums(tmp_path, tables)
    shown = {table.recipe["epochs"]: len(own) for table, own in zip(tables, albums, strict=True)}
    assert shown == {3: 2, 4: 0}


@pytest.mark.parametrize("harm", ["missing picture", "damaged picture", "damaged list", "foreign file"])
def test_pictures_that_cannot_be_shown_are_named(tmp_path, harm):
    write_results(tmp_path, "MSRS", ["IR", "VI"])
    write_beside(tmp_path / "evaluate" / "MSRS" / "all")
    folder = pictures_folder(tmp_path / "evaluate" / "MSRS" / "all")
    if harm == "missing picture":
        (folder / "two.png").unlink()
    elif harm == "damaged picture":
        (folder / "two.png").write_bytes((folder / "two.png").read_bytes()[:50])
    elif harm == "damaged list":
        (folder / INDEX).write_text("{}")
    else:
        (folder / INDEX).write_text((folder / INDEX).read_text().replace("two.png", "../two.png"))
    albums, (warning,) = albums_of(tmp_path)
    assert ("two.png" if "picture" in harm else INDEX) in warning
    assert [len(album.shots) for album in albums["MSRS"]] == ([1, 1] if "picture" in harm else [])


def test_pictures_whose_results_are_gone_are_not_shown(tmp_path):
    write_results(tmp_path, "MSRS", ["IR", "VI"])
    write_beside(tmp_path / "evaluate" / "MSRS" / "all")
    shutil.move(
        tmp_path / "evaluate" / "MSRS" / "all" / "pictures", tmp_path / "evaluate" / "Gone" / "all" / "pictures"
    )
    assert albums_of(tmp_path) == ({"MSRS": ()}, [])


def test_the_page_says_what_was_run_and_how_far_images_lie_apart(tmp_path):
    write_results(tmp_path, "MSRS", ["IR", "VI"], deviation={"EN": 0.25}, recipe={"recipe": "quick", "epochs": 3})
    page = write_report(tmp_path).html.read_text()
    assert "Recipe: quick, epochs 3." in page
    assert page.count('<small title="over images">± 0.25</small>') == 2
    assert "Small, under a figure: its standard deviation over the images." in page
    assert 'title="no figure"' in page, "EMMA was not run"


def test_the_page_and_the_tables_say_what_was_not_run(report):
    for text in (report.html.read_text(), report.markdown.read_text()):
        assert "emma-tasks detect --root DIR/M3FD --seeds 0,1,2" in text
    assert "emma-tasks reproduce table3 --root DIR" in report.html.read_text()
