# SPDX-License-Identifier: Apache-2.0
"""Prepared scans are made once, stay within bounds, and belong to nobody else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch
from monai.data import MetaTensor

from monai_ext.label.kept_scans import KeptScans

BYTES = 4 * 64


def scan(value: float) -> MetaTensor:
    """A scan of 256 bytes."""
    return MetaTensor(torch.full((1, 4, 4, 4), value), meta={"name": str(value), "places": [value]})


class Maker:
    """Counts what it makes."""

    def __init__(self) -> None:
        self.made: list[float] = []

    def __call__(self, value: float) -> MetaTensor:
        self.made.append(value)
        return scan(value)


def test_a_scan_is_made_once() -> None:
    kept, make = KeptScans(10 * BYTES), Maker()
    scans = [kept.get("a", lambda: make(1.0)) for _ in range(3)]
    assert make.made == [1.0]
    assert all(torch.equal(one.as_tensor(), scan(1.0).as_tensor()) for one in scans)


def test_all_who_ask_at_once_get_the_one_that_is_made() -> None:
    kept, make, ready, go = KeptScans(10 * BYTES), Maker(), Barrier(5), Event()

    def slowly() -> MetaTensor:
        go.wait(5)
        return make(1.0)

    def ask() -> MetaTensor:
        ready.wait(5)
        return kept.get("a", slowly)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        ready.wait(5)
        go.set()
        assert {one.result(5).data_ptr() for one in asked} == {asked[0].result().data_ptr()}
    assert make.made == [1.0]


def test_those_not_used_for_longest_make_room() -> None:
    kept, make = KeptScans(2 * BYTES), Maker()
    for key in (1.0, 2.0, 1.0, 3.0):
        kept.get(key, lambda key=key: make(key))
    assert len(kept) == 2
    for key in (1.0, 3.0, 2.0):
        kept.get(key, lambda key=key: make(key))
    assert make.made == [1.0, 2.0, 3.0, 2.0]


def test_a_scan_larger_than_the_room_is_given_but_not_kept() -> None:
    kept = KeptScans(BYTES - 1)
    assert kept.get("a", lambda: scan(1.0)).shape == (1, 4, 4, 4)
    assert len(kept) == 0


def test_what_one_user_writes_into_the_metadata_no_other_sees() -> None:
    kept = KeptScans(BYTES)
    first = kept.get("a", lambda: scan(1.0))
    first.meta["user_prompts"] = "mine"
    first.meta["places"].append(2.0)
    first.applied_operations.append({"class": "Mine"})
    second = kept.get("a", lambda: scan(1.0))
    assert (second.meta["places"], second.applied_operations) == ([1.0], [])
    assert "user_prompts" not in second.meta
    assert second.data_ptr() == first.data_ptr()


def test_after_an_error_the_next_one_tries_again() -> None:
    kept = KeptScans(BYTES)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: scan(1 / 0))
    assert kept.get("a", lambda: scan(1.0)).shape == (1, 4, 4, 4)


def test_the_room_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="got -1"):
        KeptScans(-1)
