"""Make the README's pictures from rendered samples: fused scenes by night and by day, and the report page in a browser.

Run from the repository root, after ``make demo``: python scripts/make_readme_pictures.py [RUNS]  (needs Chromium).
RUNS is the folder of the demo's runs, demo/runs by default; nothing in it is changed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from emma_core.fuse import fuse_pair
from emma_core.fusers import load_fuser
from emma_core.images import encode_preview, read_image, to_8bit, write_atomic
from emma_core.report.page import write_report
from emma_core.samples import write_samples

IMAGES = Path("docs/images")
RUNS = Path("demo/runs")
SCENES = {"fusion": "00004", "fusion-day": "00001"}
GAP = 8  # pixels


def fusion_pictures(place: Path) -> None:
    """Write infrared, visible and fused side by side, of a scene by day and of one by night."""
    write_samples(place, ["M3FD"], pairs=5, seed=0, size=(384, 512))
    for name, scene in SCENES.items():
        infrared, visible = (read_image(place / f"M3FD/{side}/{scene}.png") for side in ("Ir", "Vis"))
        fused = fuse_pair(infrared, visible, load_fuser())
        gap = np.ones((infrared.shape[0], GAP, 3), np.float32)
        grey = np.repeat(infrared[..., None], 3, axis=-1)
        picture = np.concatenate([grey, gap, visible, gap, fused], axis=1)
        write_atomic(IMAGES / f"{name}.webp", encode_preview(picture, picture.shape[1])[0])


def page_pictures(runs: Path, place: Path) -> None:
    """Write what a visitor of the demo's report sees first, and where the detector gains and loses most by fusing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.goto(write_report(runs, place / "report").html.resolve().as_uri())
        page.screenshot(path=place / "report.png")
        detection = page.locator(".results", has=page.get_by_role("heading", name="Object detection"))
        detection.locator(".album").first.screenshot(path=place / "report-detection.png")
        browser.close()
    for name in ("report", "report-detection"):
        picture = read_image(place / f"{name}.png")
        write_atomic(IMAGES / f"{name}.webp", encode_preview(picture, max(to_8bit(picture).shape))[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fusion_pictures(Path(folder))
        page_pictures(Path(sys.argv[1]) if sys.argv[1:] else RUNS, Path(folder))
    print(*(f"{path}: {Image.open(path).size}" for path in sorted(IMAGES.iterdir())), sep="\n")  # noqa: TID251
