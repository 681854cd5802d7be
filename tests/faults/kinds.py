"""Every kind of file that is read: how one is made, and what the tool does with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from conftest import random_image, tree, write_pairs, write_released_checkpoint
from PIL import Image

from detection.annotations import read_annotations
from detection.coco import evaluate
from detection.recipes import DetectorRecipe
from detection.scoring import read_conditions
from detection.splits import read_split
from detection.weights import DetectorInfo, read_weights, save_detector
from emma_core.checkpoint import load_sensing, load_ufuser, save_checkpoint
from emma_core.comparisons import Comparison, read_comparisons, write_comparisons
from emma_core.config import SensingConfig, UFuserConfig, read_toml, write_toml
from emma_core.datasets import dataset_spec
from emma_core.errors import ResultError
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import load_fuser
from emma_core.images import encode_png, read_image, write_image
from emma_core.manifest import JOURNAL, MANIFEST, Journal, file_sha256, read_manifest
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.pairs import find_pairs, read_split_file
from emma_core.pictures import TaskPicture, read_index, write_index
from emma_core.report.formats import to_csv, to_latex, to_markdown
from emma_core.report.gallery import collect_galleries
from emma_core.report.tables import table_of
from emma_core.results import Column, Result, read_result, write_result
from emma_core.rows import fused_rows
from emma_core.samples import write_samples
from emma_core.training_config import FuserTraining
from emma_core.training_log import LOG, TrainingLog
from emma_core.training_state import load_state, save_state
from segmentation.labels import SEGMENTATIONS, read_mask
from segmentation.network import build_segmenter, load_segmenter, save_segmenter
from segmentation.recipes import NetworkConfig, SegmentationTraining
from segmentation.scored import MATRICES, PREDICTIONS, collect


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        path: of the file to damage; it exists, whole.
        read: what the tool does with it; returns something to compare.
        checked: whether a checksum tells every change of the value.
    """

    path: Path
    read: Callable[[Path], object]
    checked: bool = False


# Images


def _saved(form: str, **options: object) -> Callable[[Path], None]:
    levels = (random_image(5, (24, 32, 3)) * 255).astype(np.uint8)
    return lambda path: Image.fromarray(levels).save(path, form, **options)


def _deep(suffix: str) -> Callable[[Path], None]:
    levels = (random_image(6, (24, 32, 3)) * 65535).astype(np.uint16)
    return lambda path: path.write_bytes(cv2.imencode(suffix, levels)[1].tobytes())


IMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "PNG": (".png", lambda path: path.write_bytes(encode_png(random_image(1, (24, 32, 3))))),
    "PNG, 16 bits": (".png", _deep(".png")),
    "PNG, palette": (".png", lambda path: Image.linear_gradient("L").resize((32, 24)).convert("P").save(path)),
    "JPEG": (".jpg", _saved("JPEG", quality=90)),
    "JPEG, progressive": (".jpg", _saved("JPEG", quality=90, progressive=True)),
    "BMP": (".bmp", _saved("BMP")),
    "TIFF": (".tif", _saved("TIFF")),
    "TIFF, LZW": (".tif", _saved("TIFF", compression="tiff_lzw")),
    "TIFF, 16 bits": (".tif", _deep(".tif")),
    "WebP": (".webp", _saved("WEBP")),
}


def image_kind(name: str, place: Path) -> Kind:
    suffix, write = IMAGES[name]
    write(place / f"image{suffix}")
    return Kind(place / f"image{suffix}", read_image, checked=name.startswith("PNG"))


def mask(place: Path) -> Kind:
    ids = np.random.default_rng(0).integers(0, 9, (24, 32)).astype(np.float32)
    write_image(place / "mask.png", ids / 255)
    return Kind(place / "mask.png", lambda path: read_mask(path, SEGMENTATIONS["MSRS"]), checked=True)


# Labels and lists


def voc(place: Path) -> Kind:
    (root,) = write_samples(place, ["M3FD"], 2, size=(64, 96))
    pairs = find_pairs(dataset_spec("M3FD"), root)
    return Kind(root / "Annotation" / "00000.xml", lambda _: read_annotations(pairs).hash)


def yolo(place: Path) -> Kind:
    root = write_pairs(place / "RoadScene", 2)
    (root / "labels").mkdir()
    (root / "labels" / "classes.txt").write_text("person\ncar\n")
    for name in ("000", "001"):
        (root / "labels" / f"{name}.txt").write_text("0 0.51 0.42 0.125 0.25\n1 0.3 0.3 0.1 0.2\n" * 3)
    pairs = find_pairs(dataset_spec("RoadScene"), root)
    return Kind(root / "labels" / "000.txt", lambda _: read_annotations(pairs).hash)


def coco(place: Path) -> Kind:
    root = write_pairs(place / "M3FD", 2, folders=("Ir", "Vis"))
    names = ("People", "Car")
    content = {
        "images": [{"id": n, "file_name": f"{n:03d}.png", "width": 32, "height": 24} for n in range(2)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n % 2, "category_id": n % 2, "bbox": [n, 2.5, 10, 12]} for n in range(6)],
    }
    path = root / "coco.json"
    path.write_text(json.dumps(content))
    pairs = find_pairs(dataset_spec("M3FD"), root)
    return Kind(path, lambda _: read_annotations(pairs, path).hash)


def split_json(place: Path) -> Kind:
    pairs = find_pairs(dataset_spec("TNO"), write_pairs(place / "TNO", 6)).pairs
    keys = [pair.key for pair in pairs]
    path = place / "split.json"
    path.write_text(
        json.dumps({"schema": 1, "notes": ["a note"], "train": keys[:3], "val": keys[3:4], "test": keys[4:]})
    )
    return Kind(path, lambda path: read_split(path, pairs))


def list_of_ids(place: Path) -> Kind:
    (place / "list.txt").write_text("".join(f"{number:05d}\n" for number in range(40)))
    return Kind(place / "list.txt", read_split_file)


def conditions(place: Path) -> Kind:
    (place / "conditions.json").write_text(json.dumps({f"{number:05d}": "night" for number in range(9)}))
    return Kind(place / "conditions.json", read_conditions)


# Fused folders


def _fused(place: Path):
    root = write_pairs(place / "TNO", 4)
    pairs, folder = find_pairs(dataset_spec("TNO"), root), place / "runs" / "fused" / "TNO" / "max"
    fuse_dataset(pairs, load_fuser("max"), folder)
    return pairs, folder


def _images_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.endswith(".png")}


def manifest(place: Path) -> Kind:
    """Read as ``evaluate`` reads it, as ``report`` does, and as ``fuse-dataset`` does when it goes on."""
    pairs, folder = _fused(place)
    whole = _images_of(folder)

    def read(path: Path) -> object:
        collect_galleries(place / "runs")
        rows = fused_rows(pairs, place / "runs")
        fuse_dataset(pairs, load_fuser("max"), folder)
        assert _images_of(folder) == whole
        return [row.name for row in rows]

    return Kind(folder / MANIFEST, read)


def journal(place: Path) -> Kind:
    """What a killed run left: ``fuse-dataset`` goes on to the same bytes, or refuses."""
    pairs, folder = _fused(place)
    whole, record = tree(folder), read_manifest(folder)
    with Journal(folder, record) as lines:
        for row in record.rows.values():
            lines.add(row)

    def read(path: Path) -> object:
        (folder / MANIFEST).unlink(missing_ok=True)
        fuse_dataset(pairs, load_fuser("max"), folder)
        assert tree(folder) == whole
        return None

    return Kind(folder / JOURNAL, read)


def fused_image(place: Path) -> Kind:
    pairs, folder = _fused(place)
    return Kind(folder / "all" / "000.png", lambda _: [row.name for row in fused_rows(pairs, place / "runs")], True)


# Results


def _result(**changes: object) -> Result:
    columns = (Column("EN", "bits", title="entropy"), Column("mIoU", "%", digits=1))
    common = {"task": "evaluate", "title": "Quality", "dataset": "TNO", "split": "all", "split_hash": "ab" * 32}
    values = {"EN": 6.57, "mIoU": math.nan}
    return Result(**common, count=4, row="max", columns=columns, values=values, deviation={"EN": 0.5}, **changes)


def result(place: Path) -> Kind:
    path = write_result(place, _result(notes=("a note",), environment={"torch": "2"}, seconds=1.5))

    def read(path: Path) -> object:
        table = table_of([read_result(path)])
        texts = to_markdown(table), to_latex(table), to_csv([table])
        assert not any(word in texts[0].split() for word in ("nan", "inf", "-inf"))
        return None

    return Kind(path, read)


def predictions(place: Path) -> Kind:
    boxes = [{"image_id": n, "category_id": n % 2, "bbox": [n, 2.5, 10, 12], "iscrowd": 0} for n in range(4)]
    truth = {
        "images": [{"id": n, "width": 32, "height": 24} for n in range(4)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("People", "Car"))],
        "annotations": [{**box, "id": n + 1, "area": 120} for n, box in enumerate(boxes)],
    }
    (place / "truth.json").write_text(json.dumps(truth))
    (place / "predictions.json").write_text(json.dumps([{**box, "score": 0.625} for box in boxes]))

    def read(path: Path) -> object:
        found = evaluate(place / "truth.json", path)
        assert ((found.ap50 >= 0) & (found.ap50 <= 1)).all()
        return None

    return Kind(place / "predictions.json", read)


def confusion(place: Path) -> Kind:
    """Matrices as ``segment`` reads them of a row that is done: those that were counted, or the row is made again."""
    path, masks = place / "IR" / "seed0" / MATRICES, [SimpleNamespace(id=name, key=f"test/{name}") for name in "abcd"]
    (path.parent / PREDICTIONS / "test").mkdir(parents=True)
    for each in masks:
        (path.parent / PREDICTIONS / f"{each.key}.png").touch()
    np.save(path, np.arange(4 * 9 * 9).reshape(4, 9, 9))
    common = Result("segment", "Segmentation", "MSRS", "test", "hash", 4, "IR", (), {}, evidence=file_sha256(path))
    write_result(path.parent, common)
    data = SimpleNamespace(spec=SEGMENTATIONS["MSRS"], test=SimpleNamespace(dataset="MSRS", pairs=masks))

    def read(path: Path) -> object:
        if not (found := collect(place, common, data, "zero")):
            raise ResultError(f"{path}: made again")
        return [each.matrices for each in found]

    return Kind(path, read, checked=True)


def comparisons(place: Path) -> Kind:
    said = Comparison(_result().table_key, "EMMA", "max", "EN", 1.0, 0.5, 1.5, 4, "bits")
    return Kind(write_comparisons(place, [said]), lambda path: [each.sentence() for each in read_comparisons(path)])


def pictures(place: Path) -> Kind:
    index = write_index(place, [TaskPicture("one.png", "First.", "Gains"), TaskPicture("two.png", "Second.", "Gains")])
    return Kind(index, read_index)


def training_log(place: Path) -> Kind:
    path = place / LOG
    path.write_text("".join(json.dumps({"step": n, "loss": 1 / n, "seconds": n / 7}) + "\n" for n in range(1, 9)))

    def read(path: Path) -> object:
        with TrainingLog(place, 4, 9, "training", quiet=True):
            return None

    return Kind(path, read)


# Weights and states


def _tensors(module: torch.nn.Module) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in module.state_dict().values()]


def fuser_weights(place: Path) -> Kind:
    path = place / "fuser.safetensors"
    save_checkpoint(path, UFuser(UFuserConfig((8, 8, 8, 8))), recipe="test", provenance={"data": "none"})
    return Kind(path, lambda path: _tensors(load_ufuser(path)[0]), checked=True)


def sensing_weights(place: Path) -> Kind:
    path = place / "sensing.safetensors"
    save_checkpoint(path, SensingUNet(SensingConfig((4, 8))), recipe="test", provenance={})
    return Kind(path, lambda path: _tensors(load_sensing(path)[0]), checked=True)


def authors_weights(place: Path) -> Kind:
    path = write_released_checkpoint(place / "EMMA.pth")
    return Kind(path, lambda path: _tensors(load_ufuser(path)[0]), checked=True)


def _detector_tensors(path: Path) -> list[np.ndarray]:
    return [tensor.numpy() for _, tensor in sorted(read_weights(path).tensors.items())]


def detector_weights(place: Path) -> Kind:
    path = place / "detector.safetensors"
    save_detector(path, {"a": torch.rand(8, 3, 3, 3), "b": torch.rand(8)}, DetectorInfo(("Car",), {"nc": 1}, 64))

    # Without what it says of itself, a file is a foreign one with the same tensors.
    return Kind(path, _detector_tensors, checked=True)


def foreign_detector(place: Path) -> Kind:
    torch.save({"state_dict": {"a": torch.rand(8, 9), "n": torch.tensor(3)}, "names": ["Car"]}, place / "yolo.pt")
    return Kind(place / "yolo.pt", _detector_tensors, checked=True)


def segmenter_weights(place: Path) -> Kind:
    network = build_segmenter(NetworkConfig(encoder_weights="none", decoder_channels=16), 3)
    save_segmenter(place / "segmenter.safetensors", network, {"step": "1"})
    return Kind(place / "segmenter.safetensors", lambda path: _tensors(load_segmenter(path)), checked=True)


def state(place: Path) -> Kind:
    path = place / "state.safetensors"
    save_state(path, {"progress": {"step": 4}, "module": {"weight": torch.rand(40, 9)}, "optimizer": {0: [1.5, None]}})

    def read(path: Path) -> object:
        found = load_state(path)
        return found["progress"], found["module"]["weight"].numpy(), found["optimizer"]

    return Kind(path, read, checked=True)


# Configurations


def toml(config: object) -> Callable[[Path], Kind]:
    def make(place: Path) -> Kind:
        write_toml(place / "config.toml", config)
        return Kind(place / "config.toml", lambda path: read_toml(path, type(config)))

    return make


KINDS: dict[str, Callable[[Path], Kind]] = {
    **{name: (lambda place, name=name: image_kind(name, place)) for name in IMAGES},
    "id mask": mask,
    "fused image": fused_image,
    "VOC XML": voc,
    "YOLO labels": yolo,
    "COCO JSON": coco,
    "split.json": split_json,
    "list of ids": list_of_ids,
    "conditions.json": conditions,
    "manifest.json": manifest,
    "journal.jsonl": journal,
    "result.json": result,
    "predictions.json": predictions,
    "confusion.npy": confusion,
    "comparisons.json": comparisons,
    "pictures.json": pictures,
    "log.jsonl": training_log,
    "fuser .safetensors": fuser_weights,
    "sensing .safetensors": sensing_weights,
    "fuser .pth": authors_weights,
    "detector .safetensors": detector_weights,
    "detector .pt": foreign_detector,
    "segmenter .safetensors": segmenter_weights,
    "training state": state,
    "label set TOML": toml(SEGMENTATIONS["MSRS"]),
    "fuser TOML": toml(FuserTraining()),
    "segmenter TOML": toml(SegmentationTraining()),
    "detector TOML": toml(DetectorRecipe()),
}
