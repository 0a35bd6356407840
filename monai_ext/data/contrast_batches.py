# SPDX-License-Identifier: Apache-2.0
"""Whether the last, smaller batch of an epoch can be compared with anything."""

from __future__ import annotations

from collections.abc import Sized

from monai_ext.errors import InputError


def drops_last(sampler: Sized, batch_size: int) -> bool:
    """Return whether a loader of contrastive learning leaves out an epoch's last batch: unless it is the only one.

    The loss compares the images of a batch with one another, so it grows with their number, and of one image there is
    none.

    Args:
        sampler: of this process.
        batch_size: of the loader.

    Raises:
        InputError: there are fewer than two images, or batches of one.

    Example:
        >>> drops_last(range(5), 2), drops_last(range(5), 8)
        (True, False)
    """
    if batch_size < 2:
        raise InputError(f"batch_size must be at least 2, got {batch_size}: images are compared with one another.")
    if len(sampler) < 2:
        raise InputError(
            f"dataset_dir: {len(sampler)} image for a process in one section, and at least 2 are compared with one "
            "another; give more scans or slices, or fewer processes."
        )
    return len(sampler) > batch_size
