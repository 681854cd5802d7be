"""``emma-tasks medical`` on rendered heads, by weights that cost nothing."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from conftest import Outcome, emma, write_released_checkpoint
from test_medical_scans import dicom, save

from emma_core.images import read_image, write_image
from emma_core.samples import write_samples

NAME = "Zwiebelkuchen"  # of the patient in the DICOM files of these tests


def make_bench(out: Path) -> Path:
    """Write heads, one pair of each modality beside a second PET, as small images; and weights."""
    write_samples(out, ["Harvard"], 4, 0)
    for path in (out / "Harvard").rglob("*.png"):
        write_image(path, read_image(path)[::2, ::2])
    write_released_checkpoint(out / "weights.pth")
    return out


def medical(bench: Path, *more: str | Path) -> Outcome:
    return emma("medical", *more, "--weights", "weights.pth", cwd=bench)


def heads(folder, *, nifti=False):
    """Two heads in both modalities, as DICOM files that carry a name in every place, or as one volume."""
    rows, columns = np.mgrid[-1:1:64j, -1:1:48j]
    ring = (np.abs(np.hypot(rows, columns) - 0.8) < 0.08) * 900.0
    sides = {"mri": 300 + 200 * np.sin(12 * rows) * np.cos(9 * columns), "ct": 100 + ring}
    for side, values in sides.items():
        (folder / side).mkdir(parents=True)
        if nifti:
            slices = np.stack([values, values[::-1], values * 0, values[:, ::-1]], -1)
            nibabel.save(nibabel.Nifti1Image(slices.astype(np.float32), np.eye(4)), folder / side / "v.nii.gz")
            continue
        for number in range(2):
            data = dicom(np.rint(values + 50 * number).astype(np.uint16), WindowCenter=-500, WindowWidth=1200)
            data.add_new(0x00091010, "LO", f"{NAME} in a private field")
            data.ReferringPhysicianName = data.StudyDescription = data.AccessionNumber = NAME
            save(folder / side / f"{NAME}^{number}.dcm", data)
    return ["--mri", folder / "mri", "--other", folder / "ct", "--modality", "CT"]
