# SPDX-License-Identifier: Apache-2.0
"""Segment Anything with random weights, as a file: what demos freeze where no published weights come along."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from monai_ext.files import atomic_write
from monai_ext.networks.nets.sam import build_plain_sam


def write_random_sam(path: str | Path, sam_type: str = "vit_tiny", seed: int = 0) -> None:
    """Write a state dict in the published layout, the same one for the same seed; a file that is there is kept.

    Experts belong to one frozen encoder. With this file, trainings that differ in their seed have the same one.

    Args:
        path: of the ``.pt`` file.
        sam_type: see `build_plain_sam`.
        seed: of the weights.

    Example:
        >>> write_random_sam("models/pretrained/base.pt")  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_file():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_plain_sam(sam_type, image_size=64).state_dict()
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--sam_type", default="vit_tiny")
    parser.add_argument("--seed", type=int, default=0)
    write_random_sam(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
