# SPDX-License-Identifier: Apache-2.0
"""A running server finds the points of one study in another, named by its id."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from tests.followup.toy_bundle import places, world
from tests.served.sample_app import MATCHING
from tests.served.server import Server
from tests.served.studies import BEFORE, NOW
from tests.served.viewer import infer


def test_points_of_one_study_are_found_in_another(server: Server) -> None:
    points = world(BEFORE, places(3)).tolist()
    answer = infer(server, MATCHING, "now", reference="before", points=points)
    truth = world(NOW, places(3))
    np.testing.assert_allclose([point["place"] for point in answer.params["points"]], truth, atol=2e-3)
    labels, affine = np.asarray(answer.labels.dataobj), answer.labels.affine
    centres = [nib.affines.apply_affine(affine, np.argwhere(labels == value)).mean(axis=0) for value in (1, 2, 3)]
    np.testing.assert_allclose(centres, truth, atol=0.6)
