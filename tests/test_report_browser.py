"""The page of the report in a real browser: everything on it is clicked, and nothing is asked of the network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_report_page import CLOSED, IDS, SCRIPT, write_everything
from test_report_traced import write_table

from emma_core.images import read_image
from emma_core.report.page import write_report
from emma_core.results import Column

pytestmark = pytest.mark.browser


CLASSES = (
    "Unlabelled Car Person Bike Curve,Car stop,Guardrail,Color cone,Bump,mIoU,mIoU fg,Pixel acc.,mIoU day,mIoU night"
)
A4 = 687  # pixels between the margins


def write_wide(runs):
    """Add a table of 14 columns over seeds, with long names, and one of deviations over images; many differences."""
    columns = tuple(Column(name, "%", digits=1) for name in CLASSES.replace(" ", ",", 4).split(","))
    rows = [f"{row} (pseudo-labels)" for row in ("IR", "VI", "laplacian", "EMMA")]
    said = write_table(runs, rows, columns, seeds=(0, 1, 2), task="segment", dataset="Wide")
    columns = tuple(Column(name) for name in ("EN", "SD"))
    return said + write_table(runs, ("IR", "x" * 150), columns, deviation=True, task="evaluate", dataset="Wide")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = write_everything(tmp_path_factory.mktemp("browser"))
    write_wide(runs)
    return write_report(runs)


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


def test_hostile_names_are_shown_as_text(visit):
    page = visit()
    page.locator(".strip button").nth(2).click()
    assert SCRIPT in page.locator(".counter").inner_text()
    assert page.get_by_role("heading", name=CLOSED, exact=True).count() == 1
    assert page.locator(".results").nth(1).get_by_role("rowheader", name=CLOSED).count() == 1


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


def test_dark_mode_changes_the_colours_and_keeps_the_contrast(visit):
    backgrounds = []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        inks = ["--ink", "--soft", "--accent", "--infrared", "--visible", "--fused"]
        ratios = page.evaluate(CONTRAST, [inks, ["--paper", "--card", "--wash"]])
        assert min(ratios) >= 4.5, f"{scheme}: {ratios}"  # WCAG AA
    assert backgrounds[0] != backgrounds[1]


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


def open_picture(page, number):
    page.locator(".album .enlarge").nth(number).click()
    return page.get_by_role("dialog")


def test_a_picture_of_a_task_is_enlarged_and_its_neighbours_follow(visit):
    page = visit()
    dialog = open_picture(page, 1)
    assert dialog.locator("figcaption").inner_text() == "Second."
    assert dialog.locator("img").bounding_box()["width"] > page.locator(".album img").nth(1).bounding_box()["width"]
    dialog.get_by_role("button", name="Next picture").click()
    assert dialog.locator("figcaption").inner_text() == f"First: {CLOSED}", "the last is followed by the first"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("figcaption").inner_text() == "Second."
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert page.locator(".album .enlarge").nth(1).evaluate("button => button === document.activeElement")


def test_an_enlarged_picture_is_magnified_and_scrolled(visit):
    page = visit()
    dialog = open_picture(page, 0)
    picture, button = dialog.locator("img"), dialog.get_by_role("button", name="Magnify")
    small = picture.bounding_box()["width"]
    picture.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert picture.bounding_box()["width"] > 1.5 * small
    assert dialog.locator(".view").evaluate("view => view.scrollHeight > view.clientHeight")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("figcaption").inner_text().startswith("First"), "arrows scroll what is magnified"
    button.click()
    assert picture.bounding_box()["width"] == pytest.approx(small, abs=1)
    dialog.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


def test_a_picture_alone_has_no_neighbours_and_sheets_are_enlarged_too(visit):
    page = visit()
    dialog = open_picture(page, 2)
    assert dialog.get_by_role("button", name="Next picture").is_disabled()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="All pictures").click()
    page.locator(".sheet .enlarge").nth(4).click()
    assert dialog.locator("figcaption").inner_text() == "EMMA, 000"


def test_a_phone_enlarges_pictures_within_its_screen(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator(".album .enlarge").first.tap()
    box = page.get_by_role("dialog").bounding_box()
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 360, 740)
    page.get_by_role("button", name="Close").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_differences_and_what_was_not_run_are_shown(visit):
    page = visit()
    differences = page.locator(".differences").first
    assert f"EMMA {CLOSED} than VI: EN +1.0 bits" in differences.inner_text()
    zero, dot = (differences.locator(name).bounding_box()["x"] for name in (".zero", ".dot"))
    assert zero < dot
    page.get_by_role("link", name="Not run yet").click()
    steps = page.locator("#missing details").nth(2)
    assert steps.locator("pre").is_hidden()
    steps.locator("summary").click()
    assert "emma-tasks detect --root DIR/M3FD" in steps.inner_text()


CUT = """() => [...document.querySelectorAll(".name, .row, .interval, .results small")].filter((element) => {
  const { left, right } = element.closest(".scroll") ? element.closest(".scroll").getBoundingClientRect()
    : element.getBoundingClientRect();
  return element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline"
    || left < 0 || right > innerWidth;
}).map((element) => element.textContent)"""


@pytest.mark.parametrize(("width", "media"), [(1100, "screen"), (390, "screen"), (A4, "print")])
def test_names_and_intervals_are_whole(visit, width, media):
    page = visit(viewport={"width": width, "height": 1000})
    page.emulate_media(media=media)
    page.evaluate("document.querySelectorAll('.plot').forEach((plot) => { plot.open = true; })")
    assert page.evaluate(CUT) == []
    intervals = page.locator(".interval")
    assert intervals.count() == 1 + 3 * 14 + 2
    assert page.evaluate("[...document.querySelectorAll('.interval')].every((each) => each.checkVisibility())")
    assert intervals.nth(3).inner_text() == "-2.2 to +1.6"
    assert page.locator(".forest .name").nth(3).inner_text().startswith("EMMA (pseudo-labels)")
    assert page.locator(".forest .name").nth(3).inner_text().endswith("\N{MINUS SIGN} IR (pseudo-labels)")


def test_a_phone_shows_how_far_images_lie_apart(visit):
    page = visit(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    table = page.locator(".results").nth(2)
    assert table.locator("td").first.inner_text().split() == ["1.37", "±", "0.20"]
    assert table.get_by_text("its standard deviation over the images").is_visible()


def test_the_page_prints_on_paper(visit):
    page = visit()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator(".album img").first.is_visible()
    page.set_viewport_size({"width": A4, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= A4, "the whole page would be made smaller"
    sizes = page.locator(".results table").evaluate_all(
        "all => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    points = [0.75 * pixels for pixels in sizes]
    assert points[0] == points[1] == points[2] == pytest.approx(0.86 * 9.5, abs=0.1)
    assert 7 < points[3] < 7.5, "fourteen columns"


def test_what_is_closed_is_printed(visit):
    page = visit()
    steps, words = page.locator("#missing details pre").first, page.locator(".differences details .said").first
    assert steps.is_hidden()
    page.emulate_media(media="print")
    assert steps.is_visible()
    assert words.is_hidden(), "the plot has the same figures"
