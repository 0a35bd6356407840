# SPDX-License-Identifier: Apache-2.0
"""A running server segments all its studies in the background and keeps the results in its store."""

from __future__ import annotations

import numpy as np

from tests.served.server import Server
from tests.served.studies import SCANS
from tests.served.viewer import infer, saved_label, work


def test_batch_results_are_those_of_single_requests(server: Server) -> None:
    options = {"device": "cpu", "multi_gpu": False, "result_extension": ".nii.gz", "result_dtype": "uint8"}
    work(server, "batch/infer", "samora", params={"images": "all"}, json={**options, "label_tag": "draft"})
    for scan in SCANS:
        drafted, single = saved_label(server, scan, tag="draft"), infer(server, "samora", scan).labels
        np.testing.assert_array_equal(np.asarray(drafted.dataobj), np.asarray(single.dataobj))
        np.testing.assert_allclose(drafted.affine, single.affine, atol=1e-5)
