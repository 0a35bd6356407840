# SPDX-License-Identifier: Apache-2.0
"""Data lists, slice data sets and samplers."""

from monai_ext.data.datalist import load_datalist
from monai_ext.data.epoch_sampler import EpochSampler
from monai_ext.data.published_splits import published_split
from monai_ext.data.scan_dataset import ScanDataset
from monai_ext.data.slice_dataset import SliceDataset

__all__ = ["EpochSampler", "ScanDataset", "SliceDataset", "load_datalist", "published_split"]
