"""Sample scenes: reproducible, in the exact layouts, labelled as drawn, with things for either camera to miss."""

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from emma_core.datasets import SAMPLE_MARK, dataset_spec
from emma_core.errors import UsageError
from emma_core.images import luma, read_grey, read_image
from emma_core.pairs import find_pairs
from emma_core.samples import SAMPLE_DATASETS, write_samples
from emma_core.samples.layouts import M3FD_NAMES, MSRS_IDS
from emma_core.samples.phantoms import MODALITIES, render_phantom
from emma_core.samples.scenes import CLIMATES, render_scene

PAIRS = 6
NIGHTS = ("00000", "00002", "00004")  # of the M3FD layout
COLD = [MSRS_IDS[name] for name in ("curve", "car stop", "guardrail", "color cone", "bump")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("samples")
    write_samples(out, pairs=PAIRS)
    return out


def files(root: Path) -> dict[str, str]:
    """SHA-256 of every file, by path below the root."""
    found = sorted(path for path in root.rglob("*") if path.is_file() and path.name != SAMPLE_MARK)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def labels(path: Path) -> np.ndarray:
    """The class ids of a label image, (H, W)."""
    return np.rint(read_image(path) * 255).astype(int)


def boxes(path: Path) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Names and (xmin, ymin, xmax, ymax) of an annotation."""
    places = ("xmin", "ymin", "xmax", "ymax")
    return [
        (item.findtext("name"), tuple(int(item.findtext(f"bndbox/{place}")) for place in places))
        for item in ET.parse(path).findall("object")
    ]


def contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """How much brighter an image is within a mask than in a ring around it."""
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & ~mask
    return float(image[mask].mean() - image[ring].mean())


def night_contrasts(root: Path) -> dict[int, list[tuple[float, float]]]:
    """(infrared, visible) contrast by MSRS class, one entry per image that shows enough of it."""
    found: dict[int, list[tuple[float, float]]] = {}
    for path in sorted((root / "MSRS").glob("*/vi/*N.png")):
        visible, infrared = read_grey(path), read_grey(path.parents[1] / "ir" / path.name)
        ids = labels(path.parents[1] / "Segmentation_labels" / path.name)
        for number in range(1, 9):
            mask = ids == number
            if mask.sum() >= 80:
                found.setdefault(number, []).append((contrast(infrared, mask), contrast(visible, mask)))
    return found


def test_every_pair_is_in_place(root):
    shared = {"M3FD": ["00000", "00005"], "MSRS": ["00001D", "00002N", "00003N", "00006D"], "Harvard": ["1", "2"]}
    for name, ids in shared.items():
        found = find_pairs(dataset_spec(name), root / name)
        assert len(found.pairs) == PAIRS
        assert not found.faults
        assert set(ids) <= {pair.id for pair in found.pairs}
    expected = {f"M3FD/{folder}/00003.{end}" for folder, end in (("Ir", "png"), ("Vis", "png"), ("Annotation", "xml"))}
    expected |= {f"MSRS/test/{folder}/00003N.png" for folder in ("ir", "vi", "Segmentation_labels")}
    expected |= {f"Harvard/MRI-{modality}/{side}/2.png" for modality in MODALITIES for side in ("MRI", modality)}
    names = files(root)
    assert expected <= set(names)
    assert len(names) == 3 * PAIRS + 3 * PAIRS + 2 * PAIRS  # nothing else is left behind


def test_images_are_grey_or_colour_as_in_the_data_sets(root):
    for path in root.rglob("*.png"):
        colour = path.parent.name in {"Vis", "vi", "PET", "SPECT"}
        side = (256, 256) if "Harvard" in path.parts else (240, 320)
        assert read_image(path).shape == (*side, 3) if colour else side, path


def test_fewer_pairs_are_the_same_pairs(root, tmp_path):
    write_samples(tmp_path, pairs=3)
    fewer, more = files(tmp_path), files(root)
    assert len(fewer) < len(more)
    assert fewer == {name: more[name] for name in fewer}


def test_another_process_writes_the_same_bytes(root, tmp_path):
    code = (
        "import sys; from pathlib import Path; from emma_core.samples import write_samples;"
        "assert not {'cv2', 'PIL', 'numpy', 'torch'} & set(sys.modules), 'the import is not light';"
        f"write_samples(Path({str(tmp_path)!r}), pairs=1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    alone, more = files(tmp_path), files(root)
    assert alone == {name: more[name] for name in alone}
    assert len(alone) == 3 + 3 + 12


def test_another_seed_gives_other_bytes(root, tmp_path):
    write_samples(tmp_path, pairs=2, seed=1)
    other, known = files(tmp_path), files(root)
    assert not [name for name in other if other[name] == known[name]]


def test_writing_again_replaces_and_deletes_nothing(tmp_path):
    write_samples(tmp_path, ["M3FD"], pairs=2, size=(64, 96))
    before = files(tmp_path)
    (tmp_path / "M3FD" / "Ir" / "00000.png").write_bytes(b"damaged")
    (tmp_path / "M3FD" / "notes.txt").write_text("mine")
    write_samples(tmp_path, ["M3FD"], pairs=1, size=(64, 96))
    after = files(tmp_path)
    assert after.pop("M3FD/notes.txt")
    assert after == before


def test_every_class_is_in_both_splits_of_msrs(root):
    for split in ("train", "test"):
        seen: set[int] = set()
        for path in (root / "MSRS" / split / "Segmentation_labels").iterdir():
            ids = labels(path)
            assert ids.shape == read_image(path.parents[1] / "vi" / path.name).shape[:2]
            seen |= set(np.unique(ids).tolist())
        assert seen == set(range(9)), split


def test_both_splits_of_msrs_have_days_and_nights(root):
    for split in ("train", "test"):
        brightness: dict[str, list[float]] = {}
        for path in (root / "MSRS" / split / "vi").iterdir():
            brightness.setdefault(path.stem[-1], []).append(float(read_grey(path).mean()))
        assert set(brightness) == {"D", "N"}
        assert min(brightness["D"]) > max(brightness["N"])


def test_annotations_of_m3fd(root):
    seen = set()
    for path in sorted((root / "M3FD" / "Annotation").iterdir()):
        tree = ET.parse(path)
        assert tree.findtext("folder") == "Vis"
        assert tree.findtext("filename") == f"{path.stem}.png"
        assert [tree.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["320", "240", "3"]
        for name, (left, top, right, bottom) in boxes(path):
            seen.add(name)
            assert 0 <= left < left + 3 <= right <= 320
            assert 0 <= top < top + 3 <= bottom <= 240
    assert seen == set(M3FD_NAMES.values())


def test_boxes_are_tight():
    scene = render_scene(np.random.SeedSequence(3), "day", ("person", "car", "lamp"))
    assert {"person", "car", "lamp"} <= {box.kind for box in scene.boxes}
    for box in scene.boxes:
        if box.kind == "motorcycle":
            continue  # holds its rider as well
        inside = scene.owner[box.top : box.bottom, box.left : box.right]
        numbers = [number for number, kind in enumerate(scene.kinds) if kind == box.kind]
        fits = [
            shown
            for number in numbers
            if (shown := inside == number).sum() == box.area
            and shown[0].any()
            and shown[-1].any()
            and shown[:, 0].any()
            and shown[:, -1].any()
            and (scene.owner == number).sum() == box.area
        ]
        assert len(fits) == 1, box


def test_motorcycles_are_boxed_with_their_riders():
    for seed in range(4):
        scene = render_scene(np.random.SeedSequence(seed), "overcast", ("motorcycle",))
        for box in (box for box in scene.boxes if box.kind == "motorcycle"):
            inside = scene.owner[box.top : box.bottom, box.left : box.right]
            assert "person" in {scene.kinds[number] for number in np.unique(inside)}
            return
    pytest.fail("no motorcycle in four scenes")


@pytest.mark.parametrize("climate", sorted(CLIMATES))
def test_scenes_of_any_size_and_weather(climate):
    scene = render_scene(np.random.SeedSequence(1), climate, ("person", "curve", "bump"), (70, 133))
    assert scene.infrared.shape == scene.owner.shape == (70, 133)
    assert scene.visible.shape == (70, 133, 3)
    for image in (scene.infrared, scene.visible):
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert 0 <= image.min() < image.max() <= 1
    assert set(np.unique(scene.mask(MSRS_IDS))) <= set(range(9))


def test_at_night_infrared_shows_people_and_visible_does_not(root):
    people = np.array(night_contrasts(root)[MSRS_IDS["person"]])
    assert people[:, 0].min() > 0.2
    assert np.abs(people[:, 1]).max() < people[:, 0].min()
    assert people[:, 0].mean() > 4 * np.abs(people[:, 1]).mean()


def test_at_night_visible_shows_what_is_cold_and_infrared_does_not(root):
    found = night_contrasts(root)
    by_class = np.array([np.abs(found[number]).mean(axis=0) for number in COLD if number in found])
    assert len(by_class) >= 4
    infrared, visible = by_class.mean(axis=0)
    assert visible > 1.5 * infrared
    assert infrared < 0.08


def test_at_night_boxes_hold_warm_people_and_bright_lamps_and_the_brighter_image_has_both(root):
    sides: dict[str, list[list[float]]] = {"People": [], "Lamp": []}
    for stem in NIGHTS:
        infrared = read_grey(root / "M3FD" / "Ir" / f"{stem}.png")
        visible = read_image(root / "M3FD" / "Vis" / f"{stem}.png").max(axis=-1)
        for name, (left, top, right, bottom) in boxes(root / "M3FD" / "Annotation" / f"{stem}.xml"):
            if name in sides:
                mask = np.zeros(infrared.shape, bool)
                mask[top:bottom, left:right] = True
                images = (infrared, visible, np.maximum(infrared, visible))
                sides[name].append([contrast(image, mask) for image in images])
    people, lamps = (np.mean(sides[name], axis=0) for name in ("People", "Lamp"))
    assert people[0] > 0.12 > 3 * abs(people[1])
    assert lamps[1] > 0.12 > abs(lamps[0])
    assert min(people[2], lamps[2]) > 0.09


def test_under_a_clear_night_sky_infrared_shows_what_stands_on_the_road_rather_than_what_lies_on_it(monkeypatch):
    monkeypatch.setitem(CLIMATES, "cloudy", replace(CLIMATES["unlit"], chill=0.0))
    wanted, gains = ("color cone", "bump"), []
    for seed in range(4):
        clear, cloudy = (render_scene(np.random.SeedSequence(seed), name, wanted) for name in ("unlit", "cloudy"))
        assert np.array_equal(clear.owner, cloudy.owner)
        masks = [clear.mask({kind: 1}) == 1 for kind in wanted]
        gains.append([abs(contrast(clear.infrared, mask)) - abs(contrast(cloudy.infrared, mask)) for mask in masks])
    cones, bumps = np.mean(gains, axis=0)
    assert cones > 0.08
    assert cones > 3 * abs(bumps)


def test_the_fewer_lamps_the_darker_is_the_visible_image():
    def brightness(climate: str) -> float:
        return float(np.mean([luma(render_scene(np.random.SeedSequence(n), climate, ()).visible) for n in range(4)]))

    assert brightness("unlit") < 0.8 * brightness("dark")
    assert brightness("dark") < brightness("night")


def test_infrared_of_msrs_is_as_dark_as_declared(root):
    dark = [np.percentile(read_grey(path), 60) for path in (root / "MSRS").glob("*/ir/*.png")]
    assert np.median(dark) == pytest.approx(0.09, abs=0.02)


def test_on_a_hot_day_infrared_misses_people():
    gaps: dict[str, list[float]] = {"hot": [], "overcast": []}
    for climate, found in gaps.items():
        for seed in range(3):
            scene = render_scene(np.random.SeedSequence(seed), climate, ("person",))
            mask = scene.mask({"person": 1}) == 1
            found.append(abs(contrast(scene.infrared, mask)))
    assert np.mean(gaps["hot"]) < 0.3 * np.mean(gaps["overcast"])


def test_fog_hides_things_in_visible_light_alone():
    gaps: dict[str, np.ndarray] = {}
    for climate in ("overcast", "mist"):
        scene = render_scene(np.random.SeedSequence(5), climate, ("car", "person"))
        mask = scene.mask({"person": 1}) == 1
        gaps[climate] = np.array([scene.infrared[mask].mean() - np.median(scene.infrared), luma(scene.visible).std()])
    assert gaps["mist"][1] < 0.6 * gaps["overcast"][1]
    assert gaps["mist"][0] > 0.2


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_modality_sees_a_lesion_that_the_other_misses(modality):
    def colour_contrast(image: np.ndarray, mask: np.ndarray) -> float:
        channels = image[..., None] if image.ndim == 2 else image
        return float(np.linalg.norm([contrast(channel, mask) for channel in np.moveaxis(channels, -1, 0)]))

    seen = []
    for seed in range(4):
        slices = render_phantom(np.random.SeedSequence(seed), modality)
        masks, images = (slices.only_mri, slices.only_other), (slices.mri, slices.other)
        assert all(40 < mask.sum() < 2000 for mask in masks)
        seen.append([[colour_contrast(image, mask) for image in images] for mask in masks])
    only_mri, only_other = np.mean(seen, axis=0)
    assert only_mri[0] > 0.08
    assert only_other[1] > 0.15
    assert only_other[1] > 1.5 * only_other[0]
    if modality == "CT":
        assert only_mri[0] > 2 * only_mri[1]


def test_bone_is_bright_in_ct_and_dark_in_mri(root):
    for number in ("1", "2"):
        mri, ct = (read_grey(root / "Harvard" / "MRI-CT" / side / f"{number}.png") for side in ("MRI", "CT"))
        bone = ct > 0.9
        assert 0.03 < bone.mean() < 0.3
        assert np.median(mri[bone]) < 0.2


def test_slices_fit_into_any_size():
    slices = render_phantom(np.random.SeedSequence(0), "PET", (96, 130))
    assert slices.mri.shape == (96, 130)
    assert slices.other.shape == (96, 130, 3)
    assert not slices.mri[:, :17].any()  # the head is square and in the middle


def test_arguments(tmp_path):
    heard = []
    made = write_samples(tmp_path, ["harvard", "MSRS"], 1, size=(64, 64), progress=lambda *step: heard.append(step))
    assert made == [tmp_path / "Harvard", tmp_path / "MSRS"]
    assert heard == [("Harvard", step, 6) for step in range(1, 7)] + [("MSRS", 1, 1)]
    assert {read_image(path).shape[:2] for path in tmp_path.rglob("*.png")} == {(64, 64)}


@pytest.mark.parametrize(
    ("arguments", "found", "expected"),
    [
        ({"datasets": ["M3FD", "KITTI"]}, "KITTI", "M3FD, MSRS, Harvard"),
        ({"pairs": 0}, "0 pairs", "at least 1"),
        ({"seed": -1}, "seed -1", "0 or more"),
        ({"size": (240, 32)}, "240 x 32", "at least 64 x 64"),
    ],
)
def test_impossible_requests_write_nothing(tmp_path, arguments, found, expected):
    with pytest.raises(UsageError, match=f"{found}.*{expected}"):
        write_samples(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_every_sample_data_set_is_declared():
    assert all(dataset_spec(name).sample for name in SAMPLE_DATASETS)


def test_rendered_folders_are_marked_and_others_left_alone(tmp_path):
    write_samples(tmp_path, ["MSRS"], pairs=3, size=(64, 64))
    assert find_pairs(dataset_spec("MSRS"), tmp_path / "MSRS").dataset == "MSRS-sample"
    write_samples(tmp_path, ["MSRS"], pairs=4, size=(64, 64))
    with pytest.raises(UsageError, match="another seed"):
        write_samples(tmp_path, ["MSRS"], pairs=3, size=(64, 64), seed=1)
    (tmp_path / "M3FD").mkdir()
    (tmp_path / "M3FD" / "precious.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds something else"):
        write_samples(tmp_path, ["M3FD"], pairs=1)
    assert [path.name for path in (tmp_path / "M3FD").iterdir()] == ["precious.png"]
