# SPDX-License-Identifier: Apache-2.0
"""What has become of a lesion follows from its match and from the follow-up's own list."""

from __future__ import annotations

import pytest

from monai_ext.followup.track_lesions import track_lesions
from tests.followup.made_matches import lesions, matched

HERE = [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]
THERE = [[1.0, 2.0, 3.0], [51.0, 2.0, 3.0], [1.0, 52.0, 3.0]]


def test_without_a_list_a_lesion_is_found_or_uncertain() -> None:
    found = track_lesions(lesions(HERE), matched(THERE, [True, False, True]))
    assert [lesion.status for lesion in found] == ["found", "uncertain", "found"]
    assert [lesion.reason for lesion in found] == ["", "score 0.30 below 0.7", ""]
    assert found[1].followup == (51.0, 2.0, 3.0)
    assert (found[0].lesion, found[0].baseline, found[0].cycle_error) == ("a", (0.0, 0.0, 0.0), 0.5)
    assert found[0].partner is None


def test_with_a_list_lesions_are_matched_lost_or_new() -> None:
    listed = lesions([[52.0, 2.0, 3.0], [1.0, 2.0, 7.0], [-40.0, 0.0, 0.0]], names="xyz")
    back = matched([[50.0, 0.0, 0.0], [0.0, 0.0, 4.0], [-41.0, 0.0, 0.0]])
    found = track_lesions(lesions(HERE), matched(THERE), listed, back)
    assert [(lesion.lesion, lesion.status, lesion.partner) for lesion in found] == [
        ("a", "matched", "y"),
        ("b", "matched", "x"),
        ("c", "lost", None),
        (None, "new", "z"),
    ]
    assert [lesion.distance for lesion in found] == [4.0, 1.0, None, None]
    assert found[3].baseline == (-41.0, 0.0, 0.0)
    assert found[3].followup == (-40.0, 0.0, 0.0)


def test_a_new_place_that_the_baseline_does_not_show_is_uncertain() -> None:
    listed = lesions([[200.0, 0.0, 0.0]], names="z")
    found = track_lesions(lesions(HERE[:1]), matched(THERE[:1]), listed, matched([[9.0, 9.0, 9.0]], [False]))
    assert [(lesion.status, lesion.partner) for lesion in found] == [("lost", None), ("uncertain", "z")]
    assert found[1].reason == "its place was not recognised at baseline: score 0.30 below 0.7"


def test_an_uncertain_match_is_named_its_neighbour_but_takes_it_from_nobody() -> None:
    there = [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    listed = lesions([[1.0, 0.0, 0.0], [8.0, 0.0, 0.0]], names="xy")
    back = matched([[0.0, 0.0, 0.0]] * 2)
    found = track_lesions(lesions(HERE[:2]), matched(there, [False, True]), listed, back)
    assert [(lesion.status, lesion.partner, lesion.distance) for lesion in found] == [
        ("uncertain", "y", 8.0),
        ("matched", "x", 2.0),
    ]


@pytest.mark.parametrize(("diameters", "status"), [([10.0], "lost"), ([40.0], "matched"), ([float("nan")], "lost")])
def test_a_large_lesion_may_be_further_away(diameters: list[float], status: str) -> None:
    listed = lesions([[16.0, 2.0, 3.0]], names="x")
    baseline = lesions(HERE[:1], diameters=diameters)
    found = track_lesions(baseline, matched(THERE[:1]), listed, matched([[15.0, 0.0, 0.0]]))
    assert found[0].status == status


def test_the_larger_of_both_radii_counts_and_the_limit_is_told() -> None:
    listed = lesions([[16.0, 2.0, 3.0]], names="x", diameters=[36.0])
    found = track_lesions(lesions(HERE[:1], diameters=[4.0]), matched(THERE[:1]), listed, matched([[15.0, 0.0, 0.0]]))
    assert (found[0].status, found[0].limit, found[0].distance) == ("matched", 18.0, 15.0)
    assert (found[0].baseline_diameter, found[0].followup_diameter) == (4.0, 36.0)
    assert (found[0].change, found[0].change_percent) == (32.0, 800.0)


@pytest.mark.parametrize(
    ("before", "after", "change", "percent"),
    [(10.0, 7.0, -3.0, -30.0), (0.0, 4.0, 4.0, None), (float("nan"), 4.0, None, None), (4.0, float("nan"), None, None)],
)
def test_a_change_is_told_where_both_diameters_are_known(
    before: float, after: float, change: float | None, percent: float | None
) -> None:
    listed = lesions(THERE[:1], names="x", diameters=[after])
    found = track_lesions(lesions(HERE[:1], diameters=[before]), matched(THERE[:1]), listed, matched(HERE[:1]))
    assert (found[0].change, found[0].change_percent) == (change, percent)


def test_an_empty_list_means_that_all_are_lost() -> None:
    found = track_lesions(lesions(HERE), matched(THERE, [True, True, False]), lesions([]), matched([]))
    assert [lesion.status for lesion in found] == ["lost", "lost", "uncertain"]


def test_lists_without_their_matches_are_refused() -> None:
    with pytest.raises(ValueError, match="must come with a match"):
        track_lesions(lesions(HERE), matched(THERE[:2]))
    with pytest.raises(ValueError, match="must come with a match"):
        track_lesions(lesions(HERE), matched(THERE), lesions(HERE), None)
    with pytest.raises(ValueError, match="max_distance_mm must not be negative"):
        track_lesions(lesions(HERE), matched(THERE), max_distance_mm=-1.0)
