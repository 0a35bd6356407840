# SPDX-License-Identifier: Apache-2.0
"""Data lists, slice data sets and samplers."""

from monai_ext.data.datalist import load_datalist
from monai_ext.data.embedded_slice_dataset import EmbeddedSliceDataset
from monai_ext.data.epoch_sampler import EpochSampler
from monai_ext.data.prostate_sites import prostate_sites
from monai_ext.data.published_splits import published_split
from monai_ext.data.scan_dataset import ScanDataset
from monai_ext.data.site_datalist import load_site_datalist
from monai_ext.data.slice_dataset import SliceDataset

__all__ = [
    "EmbeddedSliceDataset",
    "EpochSampler",
    "ScanDataset",
    "SliceDataset",
    "load_datalist",
    "load_site_datalist",
    "prostate_sites",
    "published_split",
]
