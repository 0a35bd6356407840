# SPDX-License-Identifier: Apache-2.0
"""Labels written as DICOM-SEG of the series that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_ext.errors import InputError


def write_dicom_seg(
    series: Path, labels: Path, names: Mapping[str, int], segments: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write labels as DICOM-SEG, by MONAI Label's own converter, into a temporary file.

    Args:
        series: folder of the DICOM files.
        labels: image file of class indices in the grid of the series.
        names: of the classes, with their indices.
        segments: what the client wants to be written of class 1, 2, ...: ``name``, ``description``, ``color``.

    Returns:
        The file; whoever asked for it removes it.

    Raises:
        InputError: no voxel is labelled, as a DICOM-SEG has one segment at least.
    """
    from monailabel.datastore.utils.convert import nifti_to_dicom_seg

    found = np.unique(np.asarray(nib.load(labels).dataobj))  # type: ignore[attr-defined]
    values = [int(value) for value in found if value]
    if not values:
        raise InputError("dicom_seg: nothing was found in this study, and a DICOM-SEG cannot be empty.")
    told = segment_texts(values, names, segments)
    # not by ITK: that way needs a program which MONAI Label loads from the network
    return Path(nifti_to_dicom_seg(str(series), str(labels), told, use_itk=False))


def segment_texts(
    values: Sequence[int], names: Mapping[str, int], segments: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return what is written of the classes that are there, in their order; MONAI Label counts by place.

    Example:
        >>> segment_texts([2], {"liver": 1, "spleen": 2})
        [{'name': 'spleen', 'description': 'spleen'}]
    """
    known = {index: name for name, index in names.items()}
    texts = []
    for value in values:
        name = known.get(value, f"class {value}")
        asked = dict(segments[value - 1]) if value <= len(segments) else {}
        texts.append({"name": name, "description": name, **asked})
    return texts
