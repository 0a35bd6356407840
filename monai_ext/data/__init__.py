# SPDX-License-Identifier: Apache-2.0
"""Data lists, slice data sets and samplers."""

from monai_ext.data.contrast_batches import drops_last
from monai_ext.data.datalist import load_datalist
from monai_ext.data.deep_lesion_pairs import deep_lesion_pairs
from monai_ext.data.embedded_slice_dataset import EmbeddedSliceDataset
from monai_ext.data.epoch_sampler import EpochSampler
from monai_ext.data.few_shot import load_few_shot, slice_share
from monai_ext.data.lymph_node_scans import lymph_node_scans
from monai_ext.data.pair_list import load_pair_list
from monai_ext.data.pair_source import PairSource
from monai_ext.data.patch_pair_dataset import PatchPairDataset
from monai_ext.data.point_file import read_point_pairs, read_points, write_points
from monai_ext.data.point_list import PointList
from monai_ext.data.prostate_sites import prostate_sites
from monai_ext.data.published_splits import published_split
from monai_ext.data.registration_pair_dataset import RegistrationPairDataset
from monai_ext.data.registration_pair_list import load_registration_pairs
from monai_ext.data.scan_dataset import ScanDataset
from monai_ext.data.scan_list import load_scan_list
from monai_ext.data.scan_pair_dataset import ScanPairDataset
from monai_ext.data.site_datalist import load_site_datalist
from monai_ext.data.slice_dataset import SliceDataset
from monai_ext.data.undone import undone

__all__ = [
    "EmbeddedSliceDataset",
    "EpochSampler",
    "PairSource",
    "PatchPairDataset",
    "PointList",
    "RegistrationPairDataset",
    "ScanDataset",
    "ScanPairDataset",
    "SliceDataset",
    "deep_lesion_pairs",
    "drops_last",
    "load_datalist",
    "load_few_shot",
    "load_pair_list",
    "load_registration_pairs",
    "load_scan_list",
    "load_site_datalist",
    "lymph_node_scans",
    "prostate_sites",
    "published_split",
    "read_point_pairs",
    "read_points",
    "slice_share",
    "undone",
    "write_points",
]
