# SPDX-License-Identifier: Apache-2.0
"""Everything for point matching: moved scans of the brain, and the lists of scans and pairs."""

from __future__ import annotations

from monai_ext.demo.affine_pairs import PAIRS, describe_affine, make_affine_pair
from monai_ext.demo.datalist import LICENCE_FILE
from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.demo.point_pairs import points_as_csv
from monai_ext.demo.preview import Preview

SCANS, PAIR_LIST = "scans.json", "pairs.json"

_BRAIN = "brain/image.nii.gz"  # the first scan of each pair is not stored again
_FOLLOWUP = {
    "case": "followup",
    "fixed": "followup/baseline.nii.gz",
    "moving": "followup/followup.nii.gz",
    "points": "followup/points.csv",
}


def write_pairs(folder: DemoFolder, brain: BrainMaps, seed: int, preview: Preview) -> None:
    """Write ``pairs/``, the list of all pairs with known points, and the list of scans to learn from.

    Args:
        folder: where to; the brain and the follow-up pair belong to the same folder.
        brain: the first scan of each pair.
        seed: fixes movements, noise and points.
        preview: gets a picture of each moved scan.
    """
    items = []
    for recipe in PAIRS:
        pair = make_affine_pair(brain, recipe, seed)
        place = f"pairs/{recipe.name}"
        folder.write_nifti(f"{place}/moving.nii.gz", pair.image, pair.grid)
        folder.put_text(f"{place}/points.csv", points_as_csv(pair.points))
        folder.write_json(f"{place}/transform.json", describe_affine(pair))
        preview.add(place, pair.image, pair.grid)
        files = {"fixed": _BRAIN, "moving": f"{place}/moving.nii.gz", "points": f"{place}/points.csv"}
        items.append({"case": recipe.name, **files})
    folder.write_json(
        PAIR_LIST,
        {
            "name": "MNI152 pairs",
            "description": "Pairs of scans of one head, the second moved by a known map, with points in both.",
            "licence": f"ICBM 152 notice, free for any purpose with the notice kept: {LICENCE_FILE}",
            "test": [*items, _FOLLOWUP],
        },
    )
    folder.write_json(
        SCANS,
        {
            "name": "MNI152 without labels",
            "description": "The MNI152 T1 average alone, to learn from without labels. It is also what validation "
            "moves by maps of its own; the pairs of pairs.json are seen by neither.",
            "licence": f"ICBM 152 notice, free for any purpose with the notice kept: {LICENCE_FILE}",
            "training": [{"image": _BRAIN}],
            "validation": [{"image": _BRAIN}],
        },
    )
