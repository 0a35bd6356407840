# SPDX-License-Identifier: Apache-2.0
"""Reading scans: one way for every format, and a plain sentence for every broken file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader, ITKReader, NibabelReader, PILReader
from monai.transforms import LoadImage, LoadImaged, MapTransform, Transform
from monai.utils import ensure_tuple, optional_import
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.scan_files import is_raster

KEPT_META = ("affine", "original_affine", "original_channel_dim", "spatial_shape", "space", "filename_or_obj")
Path_ = str | PathLike[str]


class LoadScand(LoadImaged):
    """MONAI's `LoadImaged`, with one reader per format and clear errors; MONAI Label takes it for the same.

    NIfTI is read by nibabel, PNG, JPEG, TIFF and BMP by Pillow, and NRRD, MHA and folders of DICOM files by ITK.
    A list of paths is stacked into channels. Pictures lose a transparency channel. The metadata is cut down to what
    every format has, so that scans of any kind fit into one batch; ``source_shape`` and ``source_affine`` stay as
    they were in the file, whatever later transforms do. A flat image has an identity ``affine``, since it cannot be
    reoriented in space.

    Args:
        keys: of the paths.
        ensure_channel_first: give (C, X, Y[, Z]).
        image_only: False adds each image's metadata as ``<key>_meta_dict``.
        dtype: of the voxels.
        allow_missing_keys: leave items without a key alone.

    Raises:
        InputError: if a file is missing, empty, cut off or in no readable format, or modalities do not fit together.

    Example:
        >>> LoadScand(keys=["image"])({"image": "brain.nii.gz"})["image"].shape  # doctest: +SKIP
        torch.Size([1, 197, 233, 189])
    """

    def __init__(
        self,
        keys: KeysCollection,
        ensure_channel_first: bool = True,
        image_only: bool = True,
        dtype: type = np.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        # not LoadImaged's own constructor: it tries all of MONAI's readers and warns of absent GPU decoders
        MapTransform.__init__(self, keys, allow_missing_keys)
        self._loader = _ScanLoader(image_only, dtype, ensure_channel_first)
        self.meta_keys = (None,) * len(self.keys)
        self.meta_key_postfix = ("meta_dict",) * len(self.keys)
        self.overwriting = False

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        missing = [key for key in self.keys if not data.get(key)]
        if missing and not self.allow_missing_keys:
            raise InputError(f"{data.get('image', 'an item')}: the data list gives no {missing[0]!r} for it; add one.")
        return super().__call__(data, reader)


class _ScanLoader(LoadImage):
    def __init__(self, image_only: bool, dtype: type, ensure_channel_first: bool) -> None:
        Transform.__init__(self)
        self.image_only = image_only
        self.dtype = dtype
        self.ensure_channel_first = ensure_channel_first
        self.auto_select = True  # by suffix
        self.readers = [_SeriesReader(), _RasterReader(), NibabelReader()]  # the last that knows the suffix reads
        self.simple_keys, self.pattern, self.sep, self.expanduser = False, None, ".", False

    def __call__(self, filename: Sequence[Path_] | Path_, reader: ImageReader | None = None) -> Any:
        names = [str(Path(name).expanduser()) for name in ensure_tuple(filename)]
        for name in names:
            _check_file(name)
        try:
            loaded = super().__call__(names, reader)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{', '.join(names)}: cannot be read ({_reason(error)}); the file may be cut off or of another format, "
                "copy it again or run `python -m monai_ext doctor DIR`."
            ) from error
        image = loaded if self.image_only else loaded[0]
        _describe_source(image, names[0])
        return image if self.image_only else (image, image.meta)


class _SeriesReader(ITKReader):
    """ITK, but it does not pick one of several DICOM series silently."""

    def read(self, data: Any, **kwargs: Any) -> Any:
        for name in ensure_tuple(data):
            if Path(name).is_dir():
                _check_series(str(name))
        return super().read(data, **kwargs)


class _RasterReader(PILReader):
    """Pillow for TIFF too, without transparency and ink colours; palettes stay, as labels use them as numbers."""

    def __init__(self) -> None:
        super().__init__(converter=_to_plain_mode)

    def verify_suffix(self, filename: Sequence[Path_] | Path_) -> bool:
        return all(is_raster(name) for name in ensure_tuple(filename))

    def _get_meta_dict(self, img: Image.Image) -> dict[str, Any]:
        white = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0, "F": 1.0}.get(img.mode, 255.0)
        return {"white": white, "palette": int(img.mode == "P")}


def _check_file(name: str) -> None:
    path = Path(name)
    if not path.exists():
        raise InputError(f"{name}: no such file; mend its path in the data list.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{name}: the file is empty (0 bytes); copy it again.")


def _reason(error: Exception) -> str:
    """Return the last line of the error that lies deepest, which names the cause."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _check_series(folder: str) -> None:
    itk, _ = optional_import("itk", allow_namespace_pkg=True)
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(folder)
    count = len(names.GetSeriesUIDs())
    if count != 1:
        raise InputError(f"{folder}: {count} DICOM series in the folder, wanted 1; give each a folder of its own.")


def _to_plain_mode(image: Image.Image) -> Image.Image:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"{image.filename}: {pages} pages in one picture; save a volume as NIfTI, or one file a page.")  # type: ignore[attr-defined]
    plain = {"RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
    plain |= {"LA": "L", "La": "L", "1": "L", "PA": "P"}
    return image.convert(plain[image.mode]) if image.mode in plain else image


def _describe_source(image: MetaTensor, name: str) -> None:
    if not isinstance(image, MetaTensor):
        return
    if image.ndim not in (3, 4):
        raise InputError(
            f"{name}: {image.ndim - 1} axes besides the channels, wanted 2 or 3; keep one volume or picture per file."
        )
    meta = {key: image.meta[key] for key in (*KEPT_META, "white", "palette") if key in image.meta}
    source = torch.as_tensor(np.asarray(meta.get("original_affine", np.eye(4)), dtype=np.float64))
    meta["source_affine"] = source
    meta["source_shape"] = torch.tensor(image.shape[1:])
    image.meta = {**meta, "filename_or_obj": name}
    if image.ndim == 3:
        image.affine = torch.eye(4, dtype=torch.float64)
