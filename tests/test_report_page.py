"""The report: what is written, what is left out, and the page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from emma_core.errors import ResultError
from emma_core.images import encode_png, read_image, write_atomic, write_image
from emma_core.manifest import Manifest, Row, file_sha256, write_manifest
from emma_core.report.gallery import collect_galleries
from emma_core.report.page import write_report
from emma_core.results import Column, Result, result_folder, write_result

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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for method, shade in SHADES.items():
        write_fused(folder / "runs", folder / "data", "MSRS", method, IDS, shade=shade)
    write_results(folder / "runs", "MSRS", ["IR", "VI", "EMMA"])
    write_results(folder / "runs", CLOSED, ["IR", "VI", CLOSED])
    return folder / "runs"


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
        manifest.write_text(manifest.read_text().replace("ir/1.png", "ir/\\u0000\\ud800"))
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


# In a browser


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        path = chromium() or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: set CHROMIUM, or run: playwright install chromium")
        with driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"]) as launched:
            yield launched


@pytest.fixture
def visit(browser, report):
    """Open the page; at the end nothing may have been logged as an error or asked of the network."""
    trouble, contexts = [], []

    def open_page(**options):
        context = browser.new_context(
            **{"viewport": {"width": 1100, "height": 1000}, "reduced_motion": "reduce"} | options
        )
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda request: outside(request.url))
        page.goto(report.html.as_uri())
        return page

    def outside(url):
        if not url.startswith(("file:", "data:")):
            trouble.append(url)

    yield open_page
    for context in contexts:
        assert not any(page.evaluate("'hacked' in window") for page in context.pages)
        context.close()
    assert trouble == []


def shades(stage, tmp_path):
    """Grey at the left and right quarter of a screenshot of the stage, below the tags and off the knob."""
    stage.screenshot(path=tmp_path / "stage.png")
    image = read_image(tmp_path / "stage.png")[..., 1]
    height, width = image.shape
    return [round(float(image[int(0.8 * height), int(part * width)]), 1) for part in (0.25, 0.75)]


@pytest.mark.browser
def test_the_divider_the_choices_and_the_pairs_change_the_picture(visit, tmp_path):
    page = visit()
    viewer, stage = page.locator(".viewer"), page.locator(".stage")
    divider = viewer.get_by_role("slider")
    assert shades(stage, tmp_path) == [0.9, 0.7], "visible on the left, EMMA on the right"
    divider.fill("90")
    assert shades(stage, tmp_path) == [0.9, 0.9]
    divider.fill("10")
    assert shades(stage, tmp_path) == [0.7, 0.7]
    divider.press("ArrowRight")
    assert divider.get_attribute("aria-valuetext") == "11 % VI, the rest EMMA"
    viewer.get_by_role("group", name="Right").get_by_role("radio", name="mean").check()
    assert shades(stage, tmp_path) == [0.5, 0.5]
    viewer.get_by_role("button", name="Next pair").click()
    assert shades(stage, tmp_path) == [0.4, 0.4]
    assert "2 / 4" in viewer.locator(".counter").inner_text()
    viewer.get_by_role("button", name="Show pair 000").click()
    viewer.get_by_role("group", name="Left").get_by_role("radio", name="IR").check()
    divider.fill("50")
    assert shades(stage, tmp_path) == [0.1, 0.5]


@pytest.mark.browser
def test_the_divider_follows_the_mouse_and_the_magnified_picture_is_dragged(visit, tmp_path):
    page = visit()
    stage, viewer = page.locator(".stage"), page.locator(".viewer")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()

    def drag(start, end):
        page.mouse.move(box["x"] + start * box["width"], box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + end * box["width"], box["y"] + 90, steps=3)
        page.mouse.up()

    drag(0.5, 0.9)
    assert shades(stage, tmp_path) == [0.9, 0.9]
    drag(0.2, 0.1)
    assert viewer.get_by_role("slider").input_value() == "10"
    viewer.get_by_role("button", name="Magnification").click()
    drag(0.5, 0.7)
    assert viewer.get_by_role("slider").input_value() == "10"
    assert stage.evaluate("element => parseFloat(element.style.getPropertyValue('--x'))") == pytest.approx(30, abs=0.1)


@pytest.mark.browser
def test_hostile_names_are_shown_as_text(visit):
    page = visit()
    page.locator(".strip button").nth(2).click()
    assert SCRIPT in page.locator(".counter").inner_text()
    assert page.get_by_role("heading", name=CLOSED, exact=True).count() == 1
    assert page.locator(".results").nth(1).get_by_role("rowheader", name=CLOSED).count() == 1


@pytest.mark.browser
def test_a_narrow_phone_never_scrolls_sideways(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator(".strip button").nth(3).click()
    page.get_by_role("button", name="All pictures").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("innerWidth") == 360
    page.locator(".plot summary").first.click()
    assert page.locator(".plot").first.locator(".dot").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


CONTRAST = """([inks, grounds]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (name) => {
    canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  return inks.flatMap((ink) => grounds.map((ground) => ratio(light(ink), light(ground))));
}"""


@pytest.mark.browser
def test_dark_mode_changes_the_colours_and_keeps_the_contrast(visit):
    backgrounds = []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        inks = ["--ink", "--soft", "--accent", "--infrared", "--visible", "--fused"]
        ratios = page.evaluate(CONTRAST, [inks, ["--paper", "--card", "--wash"]])
        assert min(ratios) >= 4.5, f"{scheme}: {ratios}"  # WCAG AA
    assert backgrounds[0] != backgrounds[1]


@pytest.mark.browser
def test_every_picture_is_there_without_script_and_in_print(visit):
    page = visit(java_script_enabled=False)
    pictures = page.locator(".sheet img")
    assert pictures.count() == len(IDS) * 5
    assert pictures.last.is_visible()
    assert page.locator(".viewer").is_hidden()
    printed = visit()
    assert printed.locator(".sheet").is_hidden()
    printed.emulate_media(media="print")
    assert printed.locator(".sheet").is_visible()
    assert printed.locator(".viewer").is_hidden()
    assert printed.locator(".sheet img:not([alt])").count() == 0
