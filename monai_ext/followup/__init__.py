# SPDX-License-Identifier: Apache-2.0
"""Points and lesions of one scan found again in others: pairs, assignment, statuses, files."""

from monai_ext.followup.lesion_list import LesionList, read_lesions
from monai_ext.followup.match_table import write_matches
from monai_ext.followup.track_lesions import track_lesions
from monai_ext.followup.tracked_lesion import TrackedLesion

__all__ = ["LesionList", "TrackedLesion", "read_lesions", "track_lesions", "write_matches"]
