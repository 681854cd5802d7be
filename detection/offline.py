"""What must be set before ultralytics is imported: no network, no telemetry, no settings in the user's home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def keep_to(runs: Path) -> None:
    """Let ultralytics keep its settings below the folder of runs, install nothing, and never go online.

    Call it before :mod:`detection.yolo` is imported for the first time in a process; later it changes nothing.
    """
    os.environ["YOLO_CONFIG_DIR"] = str((runs / "detect" / ".ultralytics").resolve())
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
