"""Boxes out of VOC XML, YOLO text and COCO JSON: names, clipping, and every broken file named with its line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import write_pairs

from detection.annotations import read_annotations
from detection.classes import CLASSES, class_number, dataset_classes
from detection.label_files import read_coco, read_voc, read_yolo
from emma_core.datasets import dataset_spec
from emma_core.errors import DataError, UsageError
from emma_core.pairs import find_pairs
from emma_core.samples import write_samples

M3FD = CLASSES["M3FD"]
VOC = """<annotation>
  <size><width>32</width><height>24</height><depth>3</depth></size>
  <object>
    <name>{name}</name>
    <bndbox><xmin>2</xmin><ymin>{top}</ymin>
    <xmax>12</xmax><ymax>20</ymax></bndbox>
  </object>
</annotation>
"""


def m3fd(tmp_path, count=3):
    root = write_pairs(tmp_path / "M3FD", count, folders=("Ir", "Vis"))
    (root / "Annotation").mkdir()
    for index in range(count):
        (root / "Annotation" / f"{index:03d}.xml").write_text(VOC.format(name="People", top=4))
    return root


def pairs_of(root, name="M3FD"):
    return find_pairs(dataset_spec(name), root)


@pytest.mark.parametrize(
    ("name", "number"),
    [("People", 4), ("person", 4), ("moto", 3), ("Light", 2), ("traffic_light", 2), ("trunk", 5), ("Tram", None)],
)
def test_names_and_aliases(name, number):
    assert class_number(name, M3FD) == number


def test_data_sets_without_boxes_are_refused():
    assert dataset_classes("M3FD-sample") == M3FD
    with pytest.raises(UsageError, match="No boxes of 'TNO' are known; known: M3FD, MSRS, RoadScene"):
        dataset_classes("TNO")


def test_voc(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(VOC.format(name="Motorcycle", top=4.5))
    found = read_voc(path, M3FD)
    assert found.size == (32, 24)
    assert [(entry.number, entry.box) for entry in found.objects] == [(3, (2, 4.5, 12, 20))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VOC.format(name="Tram", top=4), r"a\.xml:4: unknown class 'Tram'; expected Bus, Car"),
        (VOC.format(name="Car", top="four"), r"a\.xml:5: ymin is 'four', expected a number"),
        (VOC.format(name="Car", top="nan"), r"a\.xml:5: ymin is 'nan'"),
        (VOC.format(name="Car", top="1_0"), r"a\.xml:5: ymin is '1_0'"),
        (VOC.format(name="Car", top="\uff11"), r"a\.xml:5: ymin is '\uff11'"),
        (VOC.format(name="Car", top=4).replace("</object>", ""), r"a\.xml:8: broken XML \(mismatched tag\)"),
        (VOC.format(name="Car", top=4).replace("bndbox", "polygon"), r"a\.xml:3: an object without bndbox"),
        ("", r"a\.xml:1: broken XML"),
        (
            '<?xml version="1.0"?>\n<!DOCTYPE a [\n<!ENTITY b "c">]><annotation>&b;</annotation>',
            r"a\.xml:3: refused XML \(EntitiesForbidden\)",
        ),
    ],
)
def test_broken_voc_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_voc(path, M3FD)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1252", "utf-8", "utf-8-sig", "utf-16"])
def test_voc_in_the_encoding_that_it_declares(tmp_path, encoding):
    path = tmp_path / "a.xml"
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\r\n'
    text = VOC.format(name="Car", top=4).replace("<size>", "<folder>Stra\N{LATIN SMALL LETTER SHARP S}e</folder><size>")
    path.write_bytes((declared + text).encode(encoding))
    (entry,) = read_voc(path, M3FD).objects
    assert (entry.number, entry.box) == (1, (2, 4, 12, 20))
    path.write_bytes((declared + text.replace("Car", "Stra\N{LATIN SMALL LETTER SHARP S}e")).encode(encoding))
    with pytest.raises(DataError, match="a\\.xml:5: unknown class 'Stra\N{LATIN SMALL LETTER SHARP S}e'"):
        read_voc(path, M3FD)


def test_voc_that_is_utf_8_after_all(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text('<?xml version="1.0" encoding="gb2312"?>\n' + VOC.format(name="Car", top=4))
    assert len(read_voc(path, M3FD).objects) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xd8\xff\xe0 no text", r"broken XML \(not well-formed"),
        (b"<annotation>Stra\xdfe</annotation>", r"broken XML \(not well-formed"),
        (b'<?xml version="1.0" encoding="gbk"?><a>\xb3\xb5</a>', "multi-byte encodings .*; expected UTF-8"),
        (b'<?xml version="1.0" encoding="morse"?><a>\xb3\xb5</a>', "unknown encoding: morse; expected UTF-8"),
    ],
)
def test_bytes_that_are_no_xml_are_named_with_their_line(tmp_path, content, message):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.xml:1: {message}"):
        read_voc(path, M3FD)


def test_yolo(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 0.5 0.5 0.25 0.5\n\n0  0.1 0.2 0.1 0.2\n")
    found = read_yolo(path, ["person", "motorbike"], M3FD)
    assert [entry.number for entry in found.objects] == [4, 3][::-1]
    np.testing.assert_allclose(found.objects[0].box, (0.375, 0.25, 0.625, 0.75))
    assert found.size is None


@pytest.mark.parametrize(
    "line", ["1 0.5 0.5", "x 0 0 1 1", "2 0 0 1 1", "-1 0 0 1 1", "0.5 0 0 1 1", "0 nan 0 1 1", "0 1_0 0 1 1"]
)
def test_broken_yolo_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt:2: "):
        read_yolo(path, ["person", "car"], M3FD)


@pytest.mark.parametrize("line", ["0 64 0.5 0.2 0.2", "0 0.5 32 0.2 0.2", "0 0.5 0.5 12 0.2", "0 0.5 0.5 0.2 1.01"])
def test_yolo_in_pixels_is_refused(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.2 1.0004\n{line}\n")
    with pytest.raises(DataError, match=rf"a\.txt:2: '{line}', values in pixels\? expected 0 to 1"):
        read_yolo(path, ["person"], M3FD)


def coco(**changes):
    content = {
        "categories": [{"id": 7, "name": "Lamp"}],
        "images": [{"id": "x", "file_name": "images/000.png", "width": 32, "height": 24}],
        "annotations": [{"image_id": "x", "category_id": 7, "bbox": [1, 2, 3, 4]}],
    }
    return json.dumps(content | changes)


def test_coco(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(coco())
    found = read_coco(path, M3FD)["000"]
    assert [(entry.number, entry.box) for entry in found.objects] == [(2, (1, 2, 4, 6))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n,", r"a\.json:2: broken JSON"),
        ("[]", "not a COCO annotation file"),
        (coco(annotations=[{"image_id": "y", "category_id": 7, "bbox": [1, 2, 3, 4]}]), r"KeyError: 'y'"),
        (coco(annotations=[{"image_id": "x", "category_id": 7, "bbox": [1, 2, 3]}]), "ValueError"),
        (coco(categories=[{"id": 7, "name": "Tram"}]), "unknown class 'Tram'"),
    ],
)
def test_broken_coco(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_coco(path, M3FD)


@pytest.mark.parametrize("labelled", ["x", "y"])
def test_coco_that_lists_both_cameras_does_not_lose_the_boxes_of_one(tmp_path, labelled):
    path = tmp_path / "a.json"
    images = [
        {"id": key, "file_name": f"{folder}/000.png", "width": 32, "height": 24}
        for key, folder in (("x", "Ir"), ("y", "Vis"))
    ]
    path.write_text(coco(images=images, annotations=[{"image_id": labelled, "category_id": 7, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(
        DataError, match=r"a\.json: lists Ir/000\.png and Vis/000\.png; .*keep the entries of one camera"
    ):
        read_coco(path, M3FD)


def test_coco_may_list_classes_that_no_box_is_of_and_sizes_with_a_point(tmp_path):
    path = tmp_path / "a.json"
    images = [{"id": "x", "file_name": "000.png", "width": 32.0, "height": 24.0}]
    path.write_text(coco(images=images, categories=[{"id": 0, "name": "animals"}, {"id": 7, "name": "Lamp"}]))
    found = read_coco(path, M3FD)["000"]
    assert (len(found.objects), found.size) == (1, (32, 24))


@pytest.mark.parametrize("ending", ["XML", "Xml"])
def test_endings_of_label_files_in_any_case(tmp_path, ending):
    root = m3fd(tmp_path)
    (root / "Annotation" / "000.xml").rename(root / "Annotation" / f"000.{ending}")
    assert len(read_annotations(pairs_of(root)).images) == 3
    if (root / "Annotation" / "000.xml").exists():
        return  # a disk that knows no case
    (root / "Annotation" / "000.xml").write_text(VOC.format(name="Car", top=4))
    with pytest.raises(DataError, match=r"Annotation: two label files of one pair: 000\.\w+, 000\.\w+; keep one"):
        read_annotations(pairs_of(root))


def test_yolo_labels_with_a_capital_ending(tmp_path):
    root = write_pairs(tmp_path / "RoadScene", 2, folders=("ir", "vi"))
    (root / "labels").mkdir()
    for number in range(2):
        (root / "labels" / f"{number:03d}.TXT").write_text("0 0.5 0.5 0.2 0.2\n")
    pairs = find_pairs(dataset_spec("RoadScene"), root)
    assert read_annotations(pairs, classes=("person",)).unlabelled == ()


def test_two_coco_files_of_one_image_do_not_lose_the_boxes_of_one(tmp_path):
    root = write_pairs(tmp_path / "M3FD", 1, folders=("Ir", "Vis"))
    (root / "labels").mkdir()
    (root / "labels" / "ir.json").write_text(coco())
    (root / "labels" / "vis.json").write_text(coco(annotations=[]))
    with pytest.raises(DataError, match=r"vis\.json: lists 000 as ir\.json does, with other boxes; .*of one camera"):
        read_annotations(pairs_of(root))
    (root / "labels" / "vis.json").write_text(coco())
    assert read_annotations(pairs_of(root)).counts(["all/000"])["Lamp"] == 1  # nothing is lost


def parted(tmp_path, **boxes):
    """Pairs of two parts that are numbered from the start in each, and a COCO file for each, with so many lamps."""
    root = tmp_path / "MSRS"
    for part, count in boxes.items():
        write_pairs(root / part, 1, folders=("ir", "vi"))
        lamps = [{"image_id": "x", "category_id": 7, "bbox": [1, 2 + index, 3, 4]} for index in range(count)]
        (root / f"{part}.json").write_text(coco(annotations=lamps))
    return root


def test_each_part_has_the_boxes_of_its_own_coco_file(tmp_path):
    root = parted(tmp_path, train=1, test=3)
    found = read_annotations(pairs_of(root, "MSRS"), root / "{split}.json", M3FD)
    assert {key: len(image.classes) for key, image in found.images.items()} == {"train/000": 1, "test/000": 3}


@pytest.mark.parametrize("form", ["one file", "a folder of text"])
def test_boxes_that_may_be_of_the_pairs_of_two_parts_are_refused(tmp_path, form):
    root = parted(tmp_path, train=1, test=3)
    labels = root / "train.json"
    if form != "one file":
        labels = tmp_path / "text"
        labels.mkdir()
        (labels / "000.txt").write_text("2 0.5 0.5 0.2 0.2\n")
        (labels / "classes.txt").write_text("\n".join(M3FD))
    with pytest.raises(DataError, match=r"has boxes of 000, as pairs of several parts of MSRS are called; .*\{split\}"):
        read_annotations(pairs_of(root, "MSRS"), labels, M3FD)


def test_two_coco_files_of_two_parts_say_how_to_keep_them_apart(tmp_path):
    root = parted(tmp_path, train=1, test=3)
    (root / "labels").mkdir()
    for part in ("train", "test"):
        (root / f"{part}.json").rename(root / "labels" / f"{part}.json")
    with pytest.raises(DataError, match=r"with other boxes; .*give each part its own: --labels with \{split\}"):
        read_annotations(pairs_of(root, "MSRS"), None, M3FD)
    found = read_annotations(pairs_of(root, "MSRS"), root / "labels" / "{split}.json", M3FD)
    assert found.counts(found.images)["Lamp"] == 4


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_voc_without_a_size_is_in_pixels_as_with_it(tmp_path, size):
    root = m3fd(tmp_path)
    wanted = read_annotations(pairs_of(root)).images["all/000"].boxes
    text = VOC.format(name="People", top=4)
    bare = text.replace("<size><width>32</width><height>24</height><depth>3</depth></size>", size)
    assert bare != text
    (root / "Annotation" / "000.xml").write_text(bare)
    found = read_annotations(pairs_of(root)).images["all/000"]
    assert (found.width, found.height) == (32, 24)
    assert np.array_equal(found.boxes, wanted)


def test_boxes_are_clipped_and_those_without_area_counted(tmp_path):
    root = m3fd(tmp_path)
    (root / "Annotation" / "001.xml").write_text(VOC.format(name="Car", top=-3))
    (root / "Annotation" / "002.xml").write_text(VOC.format(name="Car", top=20))
    found = read_annotations(pairs_of(root))
    assert (found.clipped, found.degenerate) == (1, 1)
    assert found.images["all/001"].boxes.tolist() == [[2, 0, 12, 20]]
    assert found.images["all/002"].boxes.shape == (0, 4)
    assert found.counts(found.images) == dict.fromkeys(M3FD, 0) | {"People": 1, "Car": 1}


def test_unlabelled_is_not_empty(tmp_path):
    root = m3fd(tmp_path)
    (root / "Annotation" / "000.xml").unlink()
    (root / "Annotation" / "001.xml").write_text("<annotation/>")
    found = read_annotations(pairs_of(root))
    assert found.unlabelled == ("all/000",)
    assert list(found.images) == ["all/001", "all/002"]
    assert (found.images["all/001"].width, found.images["all/001"].height) == (32, 24)  # of the image itself


def test_numbers_are_never_guessed(tmp_path):
    root = write_pairs(tmp_path / "M3FD", 1, folders=("Ir", "Vis"))
    (root / "labels").mkdir()
    (root / "labels" / "000.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"number their classes differently; expected classes\.txt"):
        read_annotations(pairs_of(root))
    (root / "labels" / "classes.txt").write_text("Lamp\nCar\n")
    found = read_annotations(pairs_of(root)).images["all/000"]
    assert found.classes.tolist() == [M3FD.index("Lamp")]
    assert found.boxes.tolist() == [[8, 6, 24, 18]]


def test_labels_elsewhere(tmp_path):
    root = write_pairs(tmp_path / "M3FD", 2, folders=("Ir", "Vis"))
    with pytest.raises(DataError, match=r"no labels under .*expected a folder Annotation, Annotations, labels"):
        read_annotations(pairs_of(root))
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "train.json").write_text(coco())
    (tmp_path / "coco" / "val.json").write_text(coco(images=[], annotations=[]))
    for place in (tmp_path / "coco", tmp_path / "coco" / "train.json"):
        found = read_annotations(pairs_of(root), place)
        assert list(found.images) == ["all/000"]
    with pytest.raises(DataError, match="no label file is named like a pair"):
        read_annotations(pairs_of(root), tmp_path / "coco" / "val.json")
    with pytest.raises(DataError, match="no such file or folder"):
        read_annotations(pairs_of(root), tmp_path / "nowhere")


def test_the_hash_tells_boxes_apart(tmp_path):
    root = m3fd(tmp_path)
    before = read_annotations(pairs_of(root)).hash
    assert read_annotations(pairs_of(root)).hash == before
    (root / "Annotation" / "002.xml").write_text(VOC.format(name="People", top=5))
    assert read_annotations(pairs_of(root)).hash != before


def test_rendered_samples(tmp_path):
    (root,) = write_samples(tmp_path, ["M3FD"], pairs=3)
    found = read_annotations(pairs_of(root))
    assert (found.clipped, found.degenerate, found.unlabelled) == (0, 0, ())
    assert sum(found.counts(found.images).values()) > 10


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "labelled", "unlabelled", "objects"),
    [
        ("MSRS", 201, 0, {"Person": 505, "Bicycle": 60, "Car": 255}),
        ("RoadScene", 185, 36, None),
        ("M3FD", 13, 0, None),
    ],
)
def test_real_labels(data, name, labelled, unlabelled, objects):
    found = read_annotations(pairs_of(data / name, name))
    assert (len(found.images), len(found.unlabelled), found.degenerate) == (labelled, unlabelled, 0)
    counts = found.counts(found.images)
    assert objects is None or counts == objects
    for image in found.images.values():
        assert (image.boxes[:, 2:] > image.boxes[:, :2]).all()
        assert (image.boxes >= 0).all()
        assert (image.boxes <= [image.width, image.height] * 2).all()


@pytest.mark.data
def test_the_whole_annotation_of_m3fd(data):
    folder = data / "M3FD_annotations"
    read = {
        stem: file
        for name in ("train", "val", "test")
        for stem, file in read_coco(folder / f"{name}.json", M3FD).items()
    }
    assert len(read) == 4200
    counts = np.bincount([entry.number for file in read.values() for entry in file.objects], minlength=len(M3FD))
    assert counts.sum() == 34407
    content = [json.loads((folder / f"{name}.json").read_text()) for name in ("train", "val", "test")]
    names = {category["id"]: category["name"] for category in content[0]["categories"]}
    for number, name in enumerate(M3FD):  # counted plainly
        plain = sum(names[box["category_id"]] == name for part in content for box in part["annotations"])
        assert counts[number] == plain


@pytest.mark.data
def test_both_forms_of_the_m3fd_labels_agree(data):
    pairs = pairs_of(data / "M3FD")
    voc, other = read_annotations(pairs), read_annotations(pairs, data / "M3FD_annotations")
    for key, image in voc.images.items():
        order, mate = np.lexsort(image.boxes.T), other.images[key]
        place = np.lexsort(mate.boxes.T)
        assert len(image.boxes) == len(mate.boxes), key
        np.testing.assert_allclose(image.boxes[order], mate.boxes[place], atol=1)
        assert image.classes[order].tolist() == mate.classes[place].tolist()
