"""Make the README's pictures from rendered samples: a fused night scene, and the report page in a browser.

Run from the repository root, after ``make demo``: python scripts/make_readme_pictures.py  (needs Chromium).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from emma_core.fuse import fuse_pair
from emma_core.fusers import load_fuser
from emma_core.images import encode_preview, read_image, to_8bit, write_atomic
from emma_core.samples import write_samples

IMAGES = Path("docs/images")
PAGE = Path("demo/runs/report/index.html")
GAP = 8  # pixels


def fusion_picture(place: Path) -> None:
    """Write infrared, visible and fused side by side."""
    write_samples(place, ["M3FD"], pairs=5, seed=0, size=(384, 512))
    infrared, visible = (read_image(place / f"M3FD/{side}/00004.png") for side in ("Ir", "Vis"))
    fused = fuse_pair(infrared, visible, load_fuser())
    gap = np.ones((infrared.shape[0], GAP, 3), np.float32)
    grey = np.repeat(infrared[..., None], 3, axis=-1)
    picture = np.concatenate([grey, gap, visible, gap, fused], axis=1)
    write_atomic(IMAGES / "fusion.webp", encode_preview(picture, picture.shape[1])[0])


def page_picture(place: Path) -> None:
    """Write what a visitor of the demo's report sees first."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.goto(PAGE.resolve().as_uri())
        page.screenshot(path=place / "page.png")
        browser.close()
    picture = read_image(place / "page.png")
    write_atomic(IMAGES / "report.webp", encode_preview(picture, max(to_8bit(picture).shape))[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fusion_picture(Path(folder))
        page_picture(Path(folder))
    print(*(f"{path}: {Image.open(path).size}" for path in sorted(IMAGES.iterdir())), sep="\n")  # noqa: TID251
