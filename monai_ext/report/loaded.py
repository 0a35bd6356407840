# SPDX-License-Identifier: Apache-2.0
"""The image, truth and prediction of one case, opened together and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from monai_ext.errors import InputError
from monai_ext.report.cases import ScoredCase
from monai_ext.report.prompt_record import PromptRecord, SlicePrompt, read_prompts
from monai_ext.report.scans import PLANES, PictureScan, Scan, VolumeScan, read_scan

if TYPE_CHECKING:
    import numpy as np

LAYERS = ("truth", "prediction")


@dataclass(frozen=True)
class LoadedCase:
    """An opened case. ``labels`` holds "truth" and "prediction" where they exist and fit the image.

    Attributes:
        case: the scored case.
        image: the image.
        labels: label maps by name, integer classes.
        window: intensities shown as black and white.
        notes: what could not be shown, a sentence each.
        prompts: the prompt of each slice, None where none were recorded.
    """

    case: ScoredCase
    image: Scan
    labels: dict[str, Scan]
    window: tuple[float, float]
    notes: list[str]
    prompts: PromptRecord | None = None

    def prompt_of(self, plane: str, index: int) -> SlicePrompt | None:
        """Return the prompt of the slice shown, in its pixels; None when none is known, as for any other plane."""
        shown = self.image.shown_plane(plane)
        if self.prompts is None or (shown and shown != self.prompts.plane):
            return None
        found = self.prompts.slices.get(index)
        return None if found is None else found.moved(self.image.to_frame)


def load_case(case: ScoredCase) -> LoadedCase:
    """Open a case's files. A label map that is missing or does not fit becomes a note.

    Raises:
        InputError: the image itself cannot be shown.
    """
    if "image" not in case.files:
        raise InputError(f"{case.name}: cases.csv names no image file.")
    image = read_scan(case.files["image"])
    labels: dict[str, Scan] = {}
    notes: list[str] = []
    for layer, key in zip(LAYERS, ("label", "prediction"), strict=True):
        if key not in case.files:
            notes.append(f"There is no {layer}: cases.csv names no file.")
            continue
        try:
            labels[layer] = _as_classes(read_scan(case.files[key]), image)
        except InputError as error:
            notes.append(f"There is no {layer}: {error}")
    prompts = None
    if "prediction" in case.files:
        try:
            prompts = _fitting(read_prompts(case.files["prediction"]), image)
        except InputError as error:
            notes.append(f"No prompt is drawn: {error}")
    return LoadedCase(case, image, labels, window_of(image), notes, prompts)


def _fitting(record: PromptRecord | None, image: Scan) -> PromptRecord | None:
    """Refuse a record of another image: prompts on slices that this one has not, or outside of them."""
    if record is None:
        return None
    plane = record.plane if record.plane in PLANES else "axial"
    shown = image.shown_plane(plane)
    if shown and record.plane not in PLANES:
        raise InputError(f"the record's plane must be one of {', '.join(PLANES)}, got {record.plane!r}.")
    if shown not in ("", plane):
        return record  # the only slice of the image is of another plane: nothing is drawn on it
    rows, columns = image.frame(plane, 0).shape[:2]
    for index, prompt in record.slices.items():
        if index >= image.count(plane) or not prompt.moved(image.to_frame).touches(columns, rows):
            raise InputError(f"the record is of another image: slice {index + 1}, {prompt.in_words()}, is not in this.")
    return record


def _as_classes(scan: Scan, image: Scan) -> Scan:
    """Check that a label map has the image's grid; a mask stored as 0 and 255 becomes 0 and 1."""
    import numpy as np

    voxels, shape = _voxels(scan), _voxels(image).shape
    if voxels.ndim == 3 and isinstance(scan, PictureScan):
        voxels = voxels[..., 0]  # a grey mask that was saved as RGB
    if voxels.shape[:2] != shape[:2] or (voxels.ndim == 3 and voxels.shape != shape):
        raise InputError(f"its grid {voxels.shape} is not the image's {shape}.")
    if voxels.dtype == np.uint8 and voxels.size and voxels.max() == 255 and not ((voxels > 0) & (voxels < 255)).any():
        voxels = voxels > 0
    if voxels.dtype.kind == "f":
        voxels = np.nan_to_num(voxels).round()
    voxels = np.clip(voxels, 0, 255).astype(np.uint8)
    if isinstance(scan, VolumeScan):
        scan.voxels = voxels
        return scan
    return PictureScan(voxels)


def window_of(image: Scan) -> tuple[float, float]:
    """Return the 0.5 and a little above the 99.5 percentile of the voxels; 8-bit pictures are shown as they are."""
    import numpy as np

    voxels = _voxels(image)
    if voxels.dtype == np.uint8 and isinstance(image, PictureScan):
        return 0.0, 255.0
    sample = voxels.reshape(-1)[:: max(1, voxels.size // 500_000)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    return (low, high + 0.08 * (high - low)) if high > low else (low, low + 1.0)  # bright tissue is not all white


def _voxels(scan: Scan) -> np.ndarray:
    if not isinstance(scan, (PictureScan, VolumeScan)):
        raise TypeError(f"scan must be a PictureScan or a VolumeScan, got {type(scan).__name__}.")
    return scan.voxels
