# SPDX-License-Identifier: Apache-2.0
"""No batch of contrastive learning has a single image, nor fewer than the others unless it is the only one."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from monai_ext.data import drops_last
from monai_ext.errors import InputError


@pytest.mark.parametrize("batch_size", [2, 3, 4, 9])
@pytest.mark.parametrize("count", range(2, 10))
def test_batches_are_of_one_size_and_there_is_one(count: int, batch_size: int) -> None:
    data = list(range(count))
    sizes = {len(batch) for batch in DataLoader(data, batch_size, drop_last=drops_last(data, batch_size))}
    assert sizes == {min(count, batch_size)}


@pytest.mark.parametrize(("count", "batch_size", "told"), [(9, 1, "batch_size must be at least 2"), (1, 4, "1 image")])
def test_nothing_to_compare_is_refused(count: int, batch_size: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        drops_last(range(count), batch_size)
