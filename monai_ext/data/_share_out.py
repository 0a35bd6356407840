# SPDX-License-Identifier: Apache-2.0
"""Work shared out between the processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.slice_store import raise_together

T = TypeVar("T")
R = TypeVar("R")


def share_out(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Do some work on each item in one of the processes; every process has to call it, with the same items.

    Args:
        items: each goes to one process, in turn.
        work: from the items of a process to one result for each.

    Returns:
        The results of all items, in every process.

    Raises:
        Exception: what ``work`` raised, in every process if in one (there as `InputError`), once all are through.

    Example:
        >>> share_out([1, 2, 3], lambda share: [item * item for item in share])
        [1, 4, 9]
    """
    rank, processes = process_place()
    mine: list[R] = []
    together(lambda: mine.extend(work(items[rank::processes])))
    if processes == 1:
        return mine
    parts: list[Any] = [None] * processes
    dist.all_gather_object(parts, mine)
    results: list[Any] = [None] * len(items)
    for place, part in enumerate(parts):
        results[place::processes] = part
    return results


def all_have_looked() -> None:
    """Wait for every process: none may write what another still looks for, or they share out different lists."""
    if process_place()[1] > 1:
        dist.barrier()


def together(work: Callable[[], None]) -> None:
    """Do the same in every process of the group; every process has to call it.

    Raises:
        Exception: what ``work`` raised, in every process if in one (there as `InputError`), once all are through.
    """
    failure: Exception | None = None
    try:
        work()
    except Exception as error:
        failure = error
    raise_together(failure, process_place()[1])
