"""What the pictures of a table show: of which row, image, class and seed, on a table that is made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from emma_core.fuse_dataset import fused_folder
from emma_core.images import read_image, write_image
from emma_core.metrics.confusion import confusion_matrix
from emma_core.pictures import INDEX, pictures_folder
from emma_core.results import Result
from emma_core.rows import InputRow, source_rows
from emma_core.training_log import LOG
from segmentation.data import find_data, images_hash
from segmentation.evaluation import columns, figures
from segmentation.labels import UNLABELLED, SegmentationSpec, write_mask
from segmentation.panels import paint
from segmentation.pictures import bars, confusions, curves, draw_pictures, write_pictures
from segmentation.recipes import SegmentationTraining
from segmentation.run import Request
from segmentation.scored import PREDICTIONS, Scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emma_core.pictures import TaskPicture

TOY = SegmentationSpec(
    "toy",
    ("Back", "Car", "Person"),
    ((0, 0, 0), (200, 0, 0), (0, 0, 200)),
    "{split}/masks",
    infrared="{split}/ir",
    visible="{split}/vi",
)
LEVEL = {"IR": 0.2, "VI": 0.5, "EMMA": 0.8, "X": 0.9}  # of the images of each row
SHAPE = (8, 12)

# Columns of twelve that each row finds right of Car (0 to 5) and Person (6 to 11), image by image.
RIGHT = {"IR": [(1, 2), (1, 2), (1, 2), (1, 2)], "VI": [(2, 3), (2, 3), (2, 3), (2, 3)]}
FUSED = [(6, 3), (4, 5), (0, 0), (2, 4)]


def truth() -> np.ndarray:
    return np.tile(np.repeat([1, 2], 6), (SHAPE[0], 1)).astype(np.uint8)


def found(car: int, person: int) -> np.ndarray:
    """What is not right is background where a car is, and a car where a person is."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :car], mask[:, 6:], mask[:, 6 : 6 + person] = 1, 1, 2
    return mask


def request_in(place: Path) -> Request:
    """A table of the cameras alone on four test images, in a folder of its own."""
    root = place / "toy"
    for split, names in (("train", "e"), ("test", "abcd")):
        for name in names:
            for folder, row in (("ir", "IR"), ("vi", "VI")):
                write_image(root / split / folder / f"{name}.png", np.full(SHAPE, LEVEL[row], np.float32))
            write_mask(root / split / "masks" / f"{name}.png", truth(), TOY)
    data = find_data(TOY, root)
    return Request(data, source_rows(data.pairs), SegmentationTraining(), "paper", place / "runs")


def row(request: Request, name: str, right: list[tuple[int, int]], seed: int = 0, folder: str = "") -> Scored:
    """A row as it is on disk: predictions, log and images; its result names the images."""
    data, place = request.data, request.row_folder(name, seed)
    matrices = []
    for pair, columns_right in zip(data.test.pairs, right, strict=True):
        write_mask(place / PREDICTIONS / f"{pair.key}.png", found(*columns_right), TOY)
        matrices.append(confusion_matrix(truth(), found(*columns_right), 3))
    lines = [{"step": 1, "loss": LEVEL[name]}, {"step": 1, "validation": {"training mIoU": 100 * LEVEL[name] + seed}}]
    (place / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = images(request, name, folder)
    source = {"images_sha256": images_hash(InputRow(name, files, {}), files), **({"folder": folder} if folder else {})}
    stacked = np.stack(matrices)
    values = figures(stacked, data.test.pairs, TOY, "zero")
    result = Result(
        "segment", "Segmentation", "toy", "test", "hash", 4, name, columns(TOY), values, seed=seed, source=source
    )
    return Scored(replace(result, baseline=name in {"IR", "VI"}), stacked, place)


def images(request: Request, name: str, folder: str) -> dict[str, Path]:
    """Files of a row; those of a fused one are written."""
    pairs = request.data.pairs
    for camera in source_rows(pairs):
        if camera.name == name:
            return dict(camera.files)
    place = Path(folder) if folder else fused_folder(request.runs, "toy", name)
    files = {pair.key: place / f"{pair.key}.png" for pair in pairs.pairs}
    for file in files.values():
        write_image(file, np.full(SHAPE, LEVEL[name], np.float32))
    return files


def rows(request: Request) -> list[Scored]:
    return [*(row(request, name, right) for name, right in RIGHT.items()), row(request, "EMMA", FUSED)]


@pytest.fixture
def request_(tmp_path) -> Request:
    return request_in(tmp_path)


@pytest.fixture
def scored(request_) -> list[Scored]:
    return rows(request_)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, tuple[TaskPicture, Figure]]:
    request = request_in(tmp_path_factory.mktemp("drawn"))
    return {picture.file: (picture, figure) for picture, figure in draw_pictures(request, rows(request))}


def shown(figure: Figure) -> list[np.ndarray]:
    """The images in a figure, in the order of its axes."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_gains_are_called_gains_and_losses_losses(drawn):
    groups: dict[str, list[str]] = {}
    for picture, _ in drawn.values():
        groups.setdefault(picture.group, []).append(picture.file)
    assert groups["Largest gains by fusing"] == ["test-b.png", "test-a.png", "test-d.png"]
    assert groups["Largest losses by fusing"] == ["test-c.png"]


@pytest.mark.parametrize(
    ("right", "heading"),
    [((0, 0), "Largest losses by fusing"), ((6, 6), "Largest gains by fusing"), (RIGHT["VI"][0], None)],
)
def test_a_row_without_gains_or_without_losses_shows_none(request_, scored, right, heading):
    drawn = draw_pictures(request_, [*scored[:2], row(request_, "EMMA", [right] * 4)])
    found = [picture.group for picture, _ in drawn if picture.group.endswith("by fusing")]
    assert found == ([heading] * 3 if heading else [])


def test_a_test_image_stands_with_its_own_scores(drawn):
    picture, figure = drawn["test-b.png"]
    # Car: 4 of 6 columns and one of Person's; Person: 5 of 6.
    assert picture.caption.startswith("test/b: mIoU over the classes of this image [%]: IR ")
    assert f"EMMA {100 * (4 / 7 + 5 / 6) / 2:.1f}" in picture.caption
    assert f"VI {100 * (2 / 9 + 3 / 6) / 2:.1f}, " in picture.caption
    assert [axes.get_title() for axes in figure.axes[:3]] == ["IR", "VI", "EMMA"]
    assert figure.axes[6].get_title() == f"EMMA: mIoU {100 * (4 / 7 + 5 / 6) / 2:.1f}"


def test_each_panel_shows_what_its_title_says(drawn):
    """Above what each row sees, below what it finds, last the truth on the visible image."""
    panels = shown(drawn["test-a.png"][1])
    seen = [np.full(SHAPE, np.rint(255 * LEVEL[name]) / 255, np.float32) for name in ("IR", "VI", "EMMA")]
    masks = [found(*RIGHT["IR"][0]), found(*RIGHT["VI"][0]), found(*FUSED[0])]
    wanted = [*seen, *(paint(mask, image, TOY) for mask, image in zip(masks, seen, strict=True))]
    wanted.append(paint(truth(), seen[1], TOY))
    assert len(panels) == len(wanted) == 7
    for panel, image in zip(panels, wanted, strict=True):
        np.testing.assert_allclose(panel, image, atol=1e-6)


@pytest.mark.parametrize(("number", "name", "best", "worst"), [(1, "Car", "a", "c"), (2, "Person", "b", "c")])
def test_the_picture_of_a_class_is_about_that_class(drawn, number, name, best, worst):
    picture, figure = drawn[f"class-{number}.png"]
    iou = {"Car": (6 / 9, 0), "Person": (5 / 6, 0)}[name]
    assert picture.caption.startswith(
        f"{name}, where EMMA finds it best and worst; IoU of {name} [%]: best test/{best}"
    )
    assert f"EMMA {100 * iou[0]:.1f}; worst test/{worst}, " in picture.caption
    assert f"EMMA {100 * iou[1]:.1f}." in picture.caption
    for part, key, value in zip(figure.subfigs, (best, worst), iou, strict=True):
        assert part.get_suptitle().endswith(f"by EMMA: test/{key}")
        assert part.axes[6].get_title() == f"EMMA: IoU of {name} {100 * value:.1f}"
        assert part.axes[3].get_legend().get_texts()[-1].get_text() == f"{name}, truth"
    strong = paint(truth(), np.full(SHAPE, np.rint(255 * LEVEL["VI"]) / 255, np.float32), TOY, number)
    np.testing.assert_allclose(shown(figure)[6], strong, atol=1e-6)


def test_there_is_no_picture_of_the_background(drawn):
    assert [name for name in drawn if name.startswith("class-")] == ["class-1.png", "class-2.png"]


def test_confusion_is_of_true_classes_along_the_rows(scored):
    figure = confusions(scored, TOY)
    for axes, each in zip(figure.axes, scored, strict=True):
        matrix = each.matrices.sum(axis=0)
        assert not np.array_equal(matrix, matrix.T)
        wanted = [[100 * count / max(line.sum(), 1) for count in line] for line in matrix]
        np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), wanted)
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        assert texts[0, 1] == f"{wanted[1][0]:.0f}"  # cars taken for background: found 0, true 1
        assert (1, 0) not in texts  # there is no background that could be taken for cars
        assert axes.get_title() == each.input
    assert figure.axes[0].get_ylabel() == "truth"
    assert figure.axes[0].get_xlabel() == "predicted"


def test_every_row_has_its_own_curve(scored):
    loss, miou = curves(scored).axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[LEVEL[name]] for name in ("IR", "VI", "EMMA")]
    assert [line.get_ydata().tolist() for line in miou.lines] == [[100 * LEVEL[name]] for name in ("IR", "VI", "EMMA")]
    labels = ["IR, seed 0", "VI, seed 0", "EMMA, seed 0"]
    assert [line.get_label() for line in miou.lines] == labels
    assert len({line.get_color() for line in miou.lines}) == 3


def test_bars_are_the_mean_over_the_seeds_of_a_row(request_, scored):
    again = row(request_, "EMMA", RIGHT["IR"], seed=1)
    (axes,) = bars([*scored, again], TOY).axes
    heights = {bar.get_label(): [patch.get_height() for patch in bar] for bar in axes.containers}
    for name in ("Car", "mIoU"):
        place = [column.name for column in columns(TOY)].index(name)
        both = [each.result.values[name] for each in (scored[2], again)]
        assert heights["EMMA"][place] == pytest.approx(np.mean(both))
        assert heights["IR"][place] == pytest.approx(scored[0].result.values[name])


def test_a_truncated_list_of_pictures_is_made_anew(request_, scored):
    write_pictures(request_, scored)
    index = pictures_folder(request_.folder) / INDEX
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    write_pictures(request_, scored)
    assert index.read_bytes() == whole


def captions(request: Request, scored: list[Scored]) -> dict[str, str]:
    return {picture.file: picture.caption for picture, _ in draw_pictures(request, scored)}


def test_of_several_seeds_the_caption_says_which_is_shown(request_, scored):
    alone = captions(request_, scored)
    assert not any("seed" in caption for caption in alone.values())
    several = captions(request_, [row(request_, "EMMA", RIGHT["IR"], seed=1), *scored])
    detailed = set(alone) - {"iou.png", "training.png"}
    assert {file for file, caption in several.items() if caption.endswith(" (seed 0).")} == detailed
    assert several["test-b.png"] == alone["test-b.png"].removesuffix(".") + " (seed 0)."
    mixed = captions(request_, [*scored[:2], row(request_, "EMMA", FUSED, seed=3)])
    assert mixed["confusion.png"].endswith("(IR seed 0, VI seed 0, EMMA seed 3).")


def middle(request: Request, scored: list[Scored]) -> np.ndarray | None:
    """What the picture of an image shows as that which the last row sees."""
    figure = next(figure for picture, figure in draw_pictures(request, scored) if picture.file == "test-b.png")
    panel = figure.axes[2]
    return np.asarray(panel.images[0].get_array()) if panel.images else None


@pytest.mark.parametrize("name", ["EMMA", "X"])
def test_images_of_rows_that_another_command_asked_for_are_found_again(request_, scored, tmp_path, name):
    folder = str(tmp_path / "theirs") if name == "X" else ""
    table = [*scored[:2], row(request_, name, FUSED, folder=folder)]
    image = middle(request_, table)
    assert image is not None
    assert image == pytest.approx(np.full(SHAPE, np.rint(255 * LEVEL[name]) / 255))
    file = (Path(folder) if folder else fused_folder(request_.runs, "toy", name)) / "train" / "e.png"
    before = read_image(file)
    write_image(file, before / 2)  # not what the row was trained on
    assert middle(request_, table) is None
    file.unlink()
    assert middle(request_, table) is None


def test_what_is_not_scored_stays_white(request_, scored):
    data, void = request_.data, truth()
    void[0] = UNLABELLED
    spec = replace(TOY, ignore=UNLABELLED)
    for pair in data.test.pairs:
        write_mask(data.masks[pair.key], void, spec)
    request = replace(request_, data=replace(data, spec=spec))
    figure = next(figure for picture, figure in draw_pictures(request, scored) if picture.file == "test-b.png")
    assert (shown(figure)[6][0] == 1).all()
    assert (shown(figure)[6][1] < 1).any()
