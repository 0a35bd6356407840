# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms for reading, checking, prompting and writing scans."""

from monai_ext.transforms.check_scan import CheckScand
from monai_ext.transforms.denoising_pair import denoising_pair
from monai_ext.transforms.flatten_picture import FlattenPictured
from monai_ext.transforms.keep_prompts import KeepPromptsd
from monai_ext.transforms.load_scan import LoadScand
from monai_ext.transforms.overlap_patch_pair import RandOverlapPatchPaird
from monai_ext.transforms.pair_on_one_grid import PairOnOneGridd
from monai_ext.transforms.points_to_label import PointsToLabeld
from monai_ext.transforms.prepare_label import PrepareLabeld
from monai_ext.transforms.prompt_from_request import PromptFromRequestd
from monai_ext.transforms.rand_patch_order import RandPatchOrderd
from monai_ext.transforms.rand_point_prompt import RandPointPromptd
from monai_ext.transforms.rand_smooth_warp import RandSmoothWarpd
from monai_ext.transforms.record_size import RecordSized
from monai_ext.transforms.reference_from_request import ReferenceFromRequestd
from monai_ext.transforms.resample_scan import ResampleScand
from monai_ext.transforms.save_label_map import SaveLabelMapd
from monai_ext.transforms.save_prompts import SavePromptsd
from monai_ext.transforms.scale_scan import ScaleScand
from monai_ext.transforms.simclr_views import simclr_views
from monai_ext.transforms.simulated_pair import SimulatedPaird
from monai_ext.transforms.true_box import TrueBoxd

__all__ = [
    "CheckScand",
    "FlattenPictured",
    "KeepPromptsd",
    "LoadScand",
    "PairOnOneGridd",
    "PointsToLabeld",
    "PrepareLabeld",
    "PromptFromRequestd",
    "RandOverlapPatchPaird",
    "RandPatchOrderd",
    "RandPointPromptd",
    "RandSmoothWarpd",
    "RecordSized",
    "ReferenceFromRequestd",
    "ResampleScand",
    "SaveLabelMapd",
    "SavePromptsd",
    "ScaleScand",
    "SimulatedPaird",
    "TrueBoxd",
    "denoising_pair",
    "simclr_views",
]
