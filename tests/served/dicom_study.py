# SPDX-License-Identifier: Apache-2.0
"""A DICOM series: slices in files whose names say nothing of their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the environment label has it")

ROOT = "1.2.826.0.1.3680043.8.498"
SPACING, STEP, FIRST = (1.5, 0.8), 3.0, np.array([-20.0, 12.0, 5.0])  # mm: between rows and columns, slices, LPS
ACROSS, DOWN = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])  # of a row and a column, LPS


def write_series(folder: Path, voxels: np.ndarray) -> Path:
    """Write voxels (slices, rows, columns) as a CT series."""
    folder.mkdir()
    for number, pixels in enumerate(voxels):
        _slice(number, pixels.astype(np.int16)).save_as(folder / f"{(7 * number) % len(voxels):02d}.dcm", False)
    return folder


def place(column: float, row: float, number: float) -> np.ndarray:
    """Where the standard puts a pixel, LPS mm."""
    return FIRST + column * SPACING[1] * ACROSS + row * SPACING[0] * DOWN + number * STEP * np.cross(ACROSS, DOWN)


def _slice(number: int, pixels: np.ndarray) -> pydicom.FileDataset:
    header = pydicom.dataset.FileMetaDataset()
    header.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    header.MediaStorageSOPInstanceUID = f"{ROOT}.3.{number + 1}"
    header.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_ = pydicom.FileDataset("", {}, file_meta=header, preamble=b"\0" * 128)
    slice_.is_little_endian, slice_.is_implicit_VR = True, False
    slice_.update(_study())
    slice_.SOPClassUID, slice_.SOPInstanceUID = header.MediaStorageSOPClassUID, header.MediaStorageSOPInstanceUID
    slice_.InstanceNumber = number + 1
    slice_.ImagePositionPatient = [float(value) for value in place(0, 0, number)]
    slice_.ImageOrientationPatient = [*map(float, ACROSS), *map(float, DOWN)]
    slice_.PixelSpacing, slice_.SliceThickness = list(SPACING), STEP
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
    slice_.WindowCenter, slice_.WindowWidth = 200, 600
    slice_.PixelData = pixels.tobytes()
    return slice_


def _study() -> pydicom.Dataset:
    study = pydicom.Dataset()
    study.PatientName, study.PatientID, study.PatientBirthDate, study.PatientSex = "Nobody", "1", "", ""
    study.StudyInstanceUID, study.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    study.FrameOfReferenceUID, study.StudyID, study.SeriesNumber = f"{ROOT}.4", "1", 1
    study.StudyDate, study.StudyTime, study.AccessionNumber = "20200101", "120000", ""
    study.ReferringPhysicianName, study.Modality, study.Manufacturer = "", "CT", ""
    study.SeriesDate, study.SeriesTime, study.StudyDescription = "20200101", "120000", "made for a test"
    study.PositionReferenceIndicator = ""
    return study
