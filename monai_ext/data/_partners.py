# SPDX-License-Identifier: Apache-2.0
"""Which scans can make a pair with another one, without a list of all pairs, whose number is that of scans squared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload


class Partners:
    """For each item the indices that it can be paired with; what is a pair already, with itself.

    Args:
        data: items with ``subject``; those with ``reference`` are pairs.
        subjects: of two scans, ``different``, the ``same``, or ``any``.

    Example:
        >>> list(Partners([{"subject": "a"}, {"subject": "b"}, {"subject": "a"}], "different").of(0))
        [1]
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], subjects: str) -> None:
        self._subjects = subjects
        self._scans = [index for index, item in enumerate(data) if "reference" not in item]
        self._place = {index: place for place, index in enumerate(self._scans)}
        self._of_subject: dict[Any, list[int]] = {}  # places of each subject's scans
        for place, index in enumerate(self._scans):
            self._of_subject.setdefault(data[index]["subject"], []).append(place)
        self._subject = [data[index]["subject"] for index in self._scans]

    def of(self, index: int) -> Sequence[int]:
        """Return the partners of an item, in the order of the data."""
        if index not in self._place:
            return [index]
        place = self._place[index]
        family = self._of_subject[self._subject[place]]
        if self._subjects == "same":
            return [self._scans[other] for other in family if other != place]
        return _AllBut(self._scans, family if self._subjects == "different" else [place])


class _AllBut(Sequence[int]):
    """A list without some places, which are few and in order, and without a copy."""

    def __init__(self, values: Sequence[int], left_out: Sequence[int]) -> None:
        self._values, self._left_out = values, left_out

    def __len__(self) -> int:
        return len(self._values) - len(self._left_out)

    @overload
    def __getitem__(self, number: int) -> int: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[int]: ...
    def __getitem__(self, number: int | slice) -> int | Sequence[int]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        place = range(len(self))[number]
        for gap in self._left_out:
            if gap > place:
                break
            place += 1
        return self._values[place]
