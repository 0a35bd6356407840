# SPDX-License-Identifier: Apache-2.0
"""The part of DICOMweb by which OHIF reads studies, for DICOM series in a folder."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from monai_ext.errors import InputError
from monai_ext.scan_files import is_dicom_folder

# what a search answers with, by level; the standard (PS3.18, table 10.6.3-3 and following) has more
STUDY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "PatientName",
    "PatientID",
    "StudyInstanceUID",
    "StudyID",
    "StudyDescription",
)
SERIES = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "Modality",
)
BOUNDARY = "frame-of-an-image"


@dataclass(frozen=True)
class Series:
    """A DICOM series: the folder's name, and each file with what stands before its pixels."""

    name: str
    files: tuple[tuple[Path, Any], ...]

    @property
    def first(self) -> Any:
        """The attributes of the first file."""
        return self.files[0][1]


class FolderDicomWeb:
    """Searches (QIDO-RS), metadata, and frames (WADO-RS) of the series in a folder's sub-folders; nothing is written.

    Args:
        studies: the folder.
    """

    def __init__(self, studies: str | Path) -> None:
        self.studies = Path(studies)
        self._read: dict[str, tuple[int, Series | None]] = {}
        self._lock = Lock()

    def series(self) -> dict[str, Series]:
        """Return all series by their UID; a folder is read again when its content has changed."""
        found = {}
        with self._lock:
            for folder in sorted(self.studies.iterdir()):
                if folder.name.startswith(".") or not is_dicom_folder(folder):
                    continue
                state = folder.stat().st_mtime_ns
                if self._read.get(folder.name, (0, None))[0] != state:
                    self._read[folder.name] = (state, _read_series(folder))
                series = self._read[folder.name][1]
                if series is not None:
                    found[str(series.first.SeriesInstanceUID)] = series
        return found

    def answer(self, path: str, query: Mapping[str, str]) -> tuple[bytes | list[dict[str, Any]], str]:
        """Return what a path such as ``studies/1.2/series`` asks for: JSON or a body, and its media type.

        Raises:
            InputError: there is no such thing, or this server has no answer of this kind.
        """
        parts = [part for part in path.split("/") if part]
        given = dict(zip(parts[0::2], parts[1::2], strict=False))
        last = parts[-1] if len(parts) % 2 else ""
        if "frames" in given:
            return self._frame(given)
        chosen = self._chosen(given)
        if last == "metadata":
            return [_metadata(header) for series in chosen for _, header in series.files], "application/dicom+json"
        if last not in ("studies", "series", "instances"):
            raise InputError(f"/{path}: this server answers searches, metadata, and frames.")
        listed = {"studies": _study_rows, "series": _series_rows, "instances": _instance_rows}[last](chosen)
        return _filtered(listed, query), "application/dicom+json"

    def _chosen(self, given: Mapping[str, str]) -> list[Series]:
        keys = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID"}
        wanted = {keys[name]: uid for name, uid in given.items() if name in keys}
        return [s for s in self.series().values() if all(str(s.first.get(key)) == uid for key, uid in wanted.items())]

    def _frame(self, given: Mapping[str, str]) -> tuple[bytes, str]:
        import pydicom
        from pydicom.encaps import generate_pixel_data_frame

        files = [
            file
            for series in self._chosen(given)
            for file, header in series.files
            if str(header.SOPInstanceUID) == given.get("instances")
        ]
        number = given["frames"]
        if not files or not number.isdecimal():
            raise InputError(f"frames/{number}: there is no such image; give one frame of an instance, from 1 on.")
        image = pydicom.dcmread(files[0])
        syntax, count = image.file_meta.TransferSyntaxUID, int(image.get("NumberOfFrames", 1))
        if not 1 <= int(number) <= count:
            raise InputError(f"frames/{number}: the image has {count} frames.")
        if syntax.is_compressed:
            frame = list(generate_pixel_data_frame(image.PixelData, count))[int(number) - 1]
        else:
            size = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated // 8
            frame = image.PixelData[(int(number) - 1) * size : int(number) * size]
        kind = f"application/octet-stream; transfer-syntax={syntax}"
        head = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Length: {len(frame)}\r\n\r\n"
        body = head.encode() + frame + f"\r\n--{BOUNDARY}--\r\n".encode()
        return body, f'multipart/related; type="application/octet-stream"; boundary={BOUNDARY}'


def dicomweb_route(web: FolderDicomWeb) -> Any:
    """Return the route ``/proxy/dicom/...`` where OHIF looks for DICOMweb."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def route(request: Any) -> Any:
        if request.method != "GET":
            return JSONResponse({"detail": "this server's DICOM studies can be read alone."}, status_code=405)
        found, kind = await run_in_threadpool(web.answer, request.path_params["path"], dict(request.query_params))
        if isinstance(found, bytes):
            return Response(found, media_type=kind)
        return JSONResponse(found, media_type=kind)

    return Route("/proxy/dicom/{root:str}/{path:path}", route, methods=["GET", "POST"])


def _read_series(folder: Path) -> Series | None:
    """Read the files of a folder that are DICOM, without their pixels."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    files = []
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if "SOPInstanceUID" in header and "SeriesInstanceUID" in header:
            files.append((file, header))
    files.sort(key=lambda pair: int(pair[1].get("InstanceNumber") or 0))
    return Series(folder.name, tuple(files)) if files else None


def _metadata(header: Any) -> dict[str, Any]:
    content: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    # the transfer syntax stands in the file's meta information, which metadata does not have otherwise
    content["00083002"] = {"vr": "UI", "Value": [str(header.file_meta.TransferSyntaxUID)]}
    return content


def _study_rows(chosen: list[Series]) -> list[dict[str, Any]]:
    studies: dict[str, list[Series]] = {}
    for series in chosen:
        studies.setdefault(str(series.first.StudyInstanceUID), []).append(series)
    rows = []
    for members in studies.values():
        modalities = sorted({str(series.first.get("Modality", "")) for series in members})
        counts = {"00080061": {"vr": "CS", "Value": modalities}, "00201206": _count(len(members))}
        counts["00201208"] = _count(sum(len(series.files) for series in members))
        rows.append(_row(members[0].first, STUDY) | counts)
    return rows


def _series_rows(chosen: list[Series]) -> list[dict[str, Any]]:
    return [_row(series.first, SERIES) | {"00201209": _count(len(series.files))} for series in chosen]


def _instance_rows(chosen: list[Series]) -> list[dict[str, Any]]:
    return [_metadata(header) for series in chosen for _, header in series.files]


def _row(header: Any, keywords: tuple[str, ...]) -> dict[str, Any]:
    from pydicom.dataset import Dataset

    row = Dataset()
    for keyword in keywords:
        setattr(row, keyword, header.get(keyword, ""))
    content: dict[str, Any] = row.to_json_dict()
    return content


def _count(number: int) -> dict[str, Any]:
    return {"vr": "IS", "Value": [number]}


def _filtered(rows: list[dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Keep rows that match what the query says of attributes that they have, and the page that it asks for."""
    from pydicom.datadict import tag_for_keyword

    for name, wanted in query.items():
        tag = tag_for_keyword(name)
        key = name if tag is None else f"{tag:08X}"
        if wanted and any(key in row for row in rows):
            rows = [row for row in rows if _matches(row.get(key, {}), wanted)]
    start = int(query.get("offset", "0")) if query.get("offset", "0").isdecimal() else 0
    count = int(query.get("limit", "0")) if query.get("limit", "0").isdecimal() else 0
    return rows[start : start + count] if count else rows[start:]


def _matches(attribute: Mapping[str, Any], wanted: str) -> bool:
    values = [value.get("Alphabetic", "") if isinstance(value, dict) else value for value in attribute.get("Value", [])]
    texts = [str(value).lower() for value in values] or [""]
    if attribute.get("vr") == "DA" and "-" in wanted:
        first, _, until = wanted.partition("-")
        return any((not first or text >= first) and (not until or text <= until) for text in texts)
    if attribute.get("vr") == "UI":
        return any(text in wanted.replace("\\", ",").split(",") for text in texts)
    return any(fnmatch.fnmatchcase(text, wanted.lower()) for text in texts)
