# SPDX-License-Identifier: Apache-2.0
"""What the doctor can find: one rule for each kind of broken data, and a finding of a rule in a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple


class Rule(NamedTuple):
    """One kind of broken data: how bad it is, what it means and how it is mended by hand."""

    severity: str
    meaning: str
    remedy: str


RULES: dict[str, Rule] = {
    # the file itself
    "zero_byte": Rule("error", "the file is empty", "copy or export the file again"),
    "truncated": Rule(
        "error", "the file ends too early", "copy or download the file again, and compare sizes or checksums"
    ),
    "corrupt_header": Rule(
        "error",
        "the file cannot be read as what its name says",
        "export it again from the source, or give it the ending of its real format",
    ),
    "mixed_series": Rule("error", "a DICOM folder holds more than one series", "give each series a folder of its own"),
    "uneven_slices": Rule(
        "error",
        "slices of a DICOM series are missing, unreadable or unevenly spaced",
        "fetch the missing slices from the archive, or resample the series to even spacing",
    ),
    # the folder and its data list
    "bad_datalist": Rule(
        "error",
        "the data list is not JSON, or not a data list",
        'write {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, ...], "validation": [...]}',
    ),
    "missing_file": Rule("error", "the data list points nowhere", "correct the path in the data list, or add the file"),
    "unpaired_file": Rule(
        "error",
        "an image has no label, or a label has no image",
        "add the partner under the same name, or move the file elsewhere",
    ),
    "unlisted_file": Rule(
        "warning", "an image and label pair is not in the data list", "add the pair to the data list, or move it away"
    ),
    "duplicate_subject": Rule(
        "error",
        "one subject is in two splits",
        "keep all scans of a subject in one split, or the score of the other split is too good",
    ),
    "duplicate_content": Rule(
        "error",
        "the same file, or two files with the same voxels, are in two splits (warning: in one split)",
        "keep one of the two",
    ),
    # voxels
    "nan_voxels": Rule(
        "error",
        "voxels are NaN or infinite",
        "replace NaN and -infinity by the smallest finite value, +infinity by the largest; in labels NaN by 0",
    ),
    "constant_image": Rule(
        "warning", "all voxels of an image are equal", "look at the image; export it again or take it out"
    ),
    "wrong_dtype": Rule(
        "error",
        "labels stored as float or in colour (as grey RGB pictures or JPEG: a warning); "
        "images stored as complex numbers, an RGB structure or with a palette",
        "store labels as unsigned integers of one channel, images as real numbers",
    ),
    "four_dimensional": Rule(
        "error",
        "the file has four or more dimensions",
        "write one file for each modality and list them: "
        '"image": ["t1.nii.gz", "t2.nii.gz"]; of a time series choose the volume you need',
    ),
    "inconsistent_channels": Rule(
        "error",
        "images of one data set differ in channels, or 2-D and 3-D are mixed (grey among colour: a warning)",
        "convert the minority, or put it into a folder of its own",
    ),
    # labels
    "empty_label": Rule(
        "error",
        "a label has no foreground (2-D: a warning)",
        "finish the annotation; where the case truly has no object, pass --allow_empty true",
    ),
    "label_out_of_range": Rule(
        "error",
        "label values are no integers, negative or outside the classes",
        'correct the label, or declare the class in "labels" of the data list or with --num_classes',
    ),
    "mask_0_255": Rule(
        "error",
        "a binary mask holds 0 and 255 (or near them, as JPEG does) instead of 0 and 1 (pictures: a warning)",
        "store 0 and 1",
    ),
    # geometry
    "grid_mismatch": Rule(
        "error",
        "label and image (or two modalities) differ in shape or place",
        "resample the label to the image's grid with nearest neighbour, or export it again from the image",
    ),
    "non_orthonormal": Rule(
        "error",
        "the axes of the volume are not perpendicular (shear); ITK and SimpleITK refuse such files",
        "replace the direction by the nearest orthonormal one (polar decomposition)",
    ),
    "qform_sform_conflict": Rule(
        "error",
        "the two positions in a NIfTI header disagree, so that two programs see two places "
        "(warning: one of them is a template space)",
        "write the position that is right into both",
    ),
    "bad_spacing": Rule(
        "error",
        "voxel spacing is zero, not a number, absurd, or contradicts the affine",
        "write the spacing of the scanner into the header, in millimetres",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file.

    Args:
        code: a key of `RULES`.
        file: path relative to the examined folder, or absolute outside it.
        what: what is wrong, with figures.
        remedy: how a person mends it.
        severity: "error" or "warning".
        repair: what `--repair` does about it, empty where it cannot.

    Example:
        >>> finding("zero_byte", "images/a.nii.gz", "0 bytes").severity
        'error'
    """

    code: str
    file: str
    what: str
    remedy: str
    severity: str
    repair: str = ""

    @property
    def is_error(self) -> bool:
        return self.severity == "error"

    @property
    def repairable(self) -> bool:
        return bool(self.repair)

    @property
    def reason(self) -> str:
        """The finding in one line, for the quarantine."""
        return f"{self.code}: {self.file}: {self.what}"

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "repairable": self.repairable}


def finding(code: str, file: str, what: str, *, repair: str = "", remedy: str = "", severity: str = "") -> Finding:
    """Return a finding of the rule ``code``, whose severity and remedy hold unless given."""
    rule = RULES[code]
    return Finding(code, file, what, remedy or rule.remedy, severity or rule.severity, repair)
