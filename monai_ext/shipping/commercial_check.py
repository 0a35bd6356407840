# SPDX-License-Identifier: Apache-2.0
"""Refuses a release that may not be used commercially."""

from __future__ import annotations

from collections.abc import Iterable

from monai_ext.errors import InputError
from monai_ext.shipping.licences import BundleLicences


def check_commercial(bundles: Iterable[BundleLicences]) -> None:
    """Refuse what may not be used commercially, and what nobody knows of; what the user fetches does not count.

    Raises:
        InputError: names every culprit with its licence and where it came from.

    Example:
        >>> check_commercial([])
    """
    culprits = [
        f"{bundle.bundle}: {entry.kind} {entry.name} ({entry.licence}; commercial use {entry.commercial}"
        + (f"; from {entry.via})" if entry.via else ")")
        for bundle in bundles
        for entry in bundle.contained
        if entry.commercial != "yes"
    ]
    if culprits:
        raise InputError(
            f"--commercial: of this release {len(culprits)} {'part' if len(culprits) == 1 else 'parts'} may not be "
            f"used commercially, or nobody knows: {'; '.join(culprits)}. Leave them out with --bundles or without "
            "--with_models, train from other weights or data, or state licence and commercial in the data list."
        )
