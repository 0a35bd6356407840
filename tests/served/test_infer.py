# SPDX-License-Identifier: Apache-2.0
"""A running server segments every study in the study's own grid, as the command line does, for several users."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.served.sample_app import CLASSES, SEGMENTING, by_command
from tests.served.server import Server
from tests.served.studies import SCANS, SHAPE
from tests.served.viewer import Answer, infer

CLICKING = ("sam_sp", "desam")


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are one."""
    return np.array_equal(one.labels.dataobj, other.labels.dataobj) and one.params["prompts"] == other.params["prompts"]


@pytest.mark.parametrize("name", SEGMENTING)
def test_a_result_is_that_of_the_command_line_in_the_grid_of_the_study(
    name: str, server: Server, app: Path, studies: Path, tmp_path: Path
) -> None:
    answer = infer(server, name, "scan1")
    expected = by_command(app, name, studies / "scan1.nii.gz", tmp_path)
    labels = np.asarray(answer.labels.dataobj)
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, np.asarray(expected.dataobj))
    np.testing.assert_allclose(answer.labels.affine, expected.affine, atol=1e-5)
    assert answer.params["label_names"] == {c.lower(): index for index, c in enumerate(CLASSES[name]) if index}


@pytest.mark.parametrize("name", CLICKING)
def test_clicks_of_two_users_at_once_do_not_mix(name: str, server: Server) -> None:
    users = [(scan, [[4 + 3 * number, 9, 4]]) for number, scan in enumerate(SCANS[:2])]
    alone = [infer(server, name, scan, foreground=clicks, background=[]) for scan, clicks in users]
    assert not same(*alone)
    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(lambda user: infer(server, name, user[0], foreground=user[1]), users * 3))
    assert all(same(answer, expected) for answer, expected in zip(at_once, alone * 3, strict=True))


def test_a_click_beside_the_study_is_named_in_the_log_and_the_next_request_is_served(server: Server) -> None:
    asked = {"params": '{"foreground": [[400, 9, 4]]}'}
    assert server.post("/infer/sam_sp", params={"image": "scan0"}, data=asked).status_code == 500
    assert infer(server, "sam_sp", "scan0", foreground=[[4, 9, 4]]).labels.shape == SHAPE
    assert "scan0.nii.gz: foreground [400, 9, 4] lies outside" in server.log.read_text(encoding="utf-8")
