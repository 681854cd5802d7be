"""Truth and predictions as COCO JSON on disk, and their evaluation by pycocotools.

Figures are computed from the files as they are read back, so anybody can check them with any other tool.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from detection.ap import ClassMatches
from emma_core.errors import ResultError
from emma_core.files import read_text
from emma_core.images import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from detection.annotations import ImageBoxes

TRUTH, PREDICTIONS = "truth.json", "predictions.json"

MOST = 100
"""Detections of a class in an image beyond this are not counted, as on COCO."""


@dataclass(frozen=True)
class Evaluation:
    """What pycocotools found.

    Attributes:
        ap50: (classes,), AP at IoU 0.5, in [0, 1]; NaN for a class without objects.
        ap: (classes,), mean AP at IoU 0.5, 0.55, ... 0.95; likewise.
        matches: one a class, at IoU 0.5.
    """

    ap50: NDArray[np.float64]
    ap: NDArray[np.float64]
    matches: tuple[ClassMatches, ...]


def write_truth(path: Path, images: Mapping[str, ImageBoxes], classes: Sequence[str]) -> None:
    """Write the objects of some images, by ``split/id``, as a COCO annotation file."""
    entries = [
        {"id": number, "file_name": key, "width": image.width, "height": image.height}
        for number, (key, image) in enumerate(images.items())
    ]
    boxes = [
        (number, *entry)
        for number, image in enumerate(images.values())
        for entry in zip(image.boxes, image.classes.tolist(), strict=True)
    ]
    annotations = [
        {"id": index, "image_id": number, "category_id": kind, **_box(box), "iscrowd": 0}
        for index, (number, box, kind) in enumerate(boxes, start=1)  # pycocotools takes match 0 for none
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    write_atomic(path, (json.dumps(content, separators=(",", ":")) + "\n").encode())


def write_predictions(
    path: Path, found: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]
) -> None:
    """Write what was found as COCO results: of each image boxes (N, 4), scores (N,) and class numbers (N,)."""
    rows = [
        {"image_id": number, "category_id": kind, "bbox": _box(box)["bbox"], "score": round(score, 6)}
        for number, (boxes, scores, kinds) in enumerate(found)
        for box, score, kind in zip(boxes, scores.tolist(), kinds.tolist(), strict=True)
    ]
    write_atomic(path, (json.dumps(rows, separators=(",", ":")) + "\n").encode())


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read COCO results.

    Raises:
        ResultError: the file is missing or damaged.
    """
    try:
        return [_prediction(**row) for row in json.loads(read_text(path))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(f"{path}: no COCO results ({type(error).__name__}); remove it and run again") from None


def _prediction(image_id: int, category_id: int, bbox: Sequence[float], score: float, **_: object) -> dict[str, Any]:
    """Check one of the COCO results.

    Raises:
        TypeError: a number is none.
        ValueError: a box or score that no detector finds.
    """
    if not (isinstance(image_id, int) and isinstance(category_id, int)):
        raise TypeError(f"image {image_id!r}, class {category_id!r}")
    left, top, wide, tall = bbox
    if not (all(map(math.isfinite, (left, top))) and 0 <= wide < math.inf and 0 <= tall < math.inf and 0 <= score <= 1):
        raise ValueError(f"box {bbox}, score {score}")
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def found_by_image(rows: Sequence[Mapping[str, Any]], images: int) -> list[tuple[Any, Any, Any]]:
    """Put COCO results back together by image: boxes as corners (N, 4), scores (N,) and class numbers (N,)."""
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(images)]
    for row in rows:
        groups[row["image_id"]].append(row)
    return [_arrays(group) for group in groups]


def _refuse_strangers(path: Path, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> None:
    """Refuse predictions of images or classes that the truth does not have."""
    for field, things in (("image_id", "images"), ("category_id", "categories")):
        known = {thing["id"] for thing in content[things]}
        if stranger := next((row for row in rows if row[field] not in known), None):
            raise ResultError(
                f"{path}: no COCO results of these images ({field} {stranger[field]!r}); remove it and run again"
            )


def evaluate(truth: Path, predictions: Path) -> Evaluation:
    """Compute AP by pycocotools.

    Args:
        truth: COCO annotations.
        predictions: COCO results on these images.

    Raises:
        ResultError: a file is missing or damaged.
    """
    rows = read_predictions(predictions)
    try:
        content = json.loads(read_text(truth))
        _refuse_strangers(predictions, rows, content)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it took
            judge = COCOeval(_coco(content), _coco(content | {"annotations": _with_areas(rows)}), "bbox")
            judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [MOST]
            judge.evaluate()
            judge.accumulate()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(f"{truth}: cannot be evaluated ({type(error).__name__}: {error})") from None
    precision = np.where(judge.eval["precision"] < 0, np.nan, judge.eval["precision"])[..., 0, 0]  # IoU, recall, class
    images = len(content["images"])
    matches = tuple(
        _class_matches(judge.evalImgs[kind * images : (kind + 1) * images]) for kind in range(precision.shape[2])
    )
    return Evaluation(precision[0].mean(axis=0), precision.mean(axis=(0, 1)), matches)


def _class_matches(verdicts: Sequence[dict[str, Any] | None]) -> ClassMatches:
    """Take over what pycocotools matched at IoU 0.5, in its order: by confidence, then by image."""
    scores = [np.array(each["dtScores"]) if each else np.empty(0) for each in verdicts]
    hits = [each["dtMatches"][0] > 0 if each else np.empty(0, bool) for each in verdicts]
    images = np.repeat(np.arange(len(verdicts)), [len(each) for each in scores])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    objects = np.array([len(each["gtIds"]) if each else 0 for each in verdicts], np.int64)
    return ClassMatches(np.concatenate(scores)[order], np.concatenate(hits)[order], images[order], objects)


def _coco(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _with_areas(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(rows, start=1)
    ]


def _box(box: NDArray[np.float64]) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in box)
    wide, tall = right - left, bottom - top
    return {"bbox": [round(value, 2) for value in (left, top, wide, tall)], "area": round(wide * tall, 2)}


def _arrays(rows: Sequence[Mapping[str, Any]]) -> tuple[Any, Any, Any]:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in rows], np.float64)
    return boxes, scores, np.array([row["category_id"] for row in rows], np.int64)
