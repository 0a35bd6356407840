# SPDX-License-Identifier: Apache-2.0
"""What has to be computed until the embeddings of a data set are there, how large it is, and the computing."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monai_ext.data._embedding_file import EmbeddingEntry
from monai_ext.data._sections import some
from monai_ext.data._share_out import share_out, together
from monai_ext.data._sizes import free_bytes, size_text
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.data.embedding_writer import part_of
from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.slice_store import StoredVolume
from monai_ext.data.volume_embeddings import VolumeEmbeddings
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)

HEADER = 4096  # more than the header of a file takes
WAIT = 0.5  # seconds between two looks at what another process is writing


class _Volume(NamedTuple):
    key: EmbeddingKey
    slices: int
    there: bool


class EmbeddingPlan:
    """The embeddings of a data set's volumes: which are there, which are missing, and how to get these.

    Several processes of a group share out the volumes, so each of them has to take every step. Others may compute the
    same embeddings at the same time: who comes first writes a volume, the others wait for it, or go on with it if its
    writer dies.

    Args:
        embeddings: of which network, kept where.
        volumes: as `SliceStore` gives them.
        cases: name of each.

    Raises:
        InputError: a volume cannot be read.

    Example:
        >>> plan = EmbeddingPlan(embeddings, SliceStore(reading).prepare(items), names)  # doctest: +SKIP
        >>> plan.check_room()  # doctest: +SKIP
        >>> plan.carry_out()  # doctest: +SKIP
        12
    """

    def __init__(self, embeddings: VolumeEmbeddings, volumes: Sequence[StoredVolume], cases: Sequence[str]) -> None:
        self.embeddings = embeddings
        self._volumes = list(volumes)
        self._cases = list(cases)
        self._found = share_out(range(len(self._volumes)), self._look)

    @property
    def keys(self) -> list[EmbeddingKey]:
        """What the embeddings of each volume are found by."""
        return [volume.key for volume in self._found]

    @property
    def slices(self) -> int:
        """Slices of all volumes."""
        return sum(volume.slices for volume in self._found)

    @property
    def missing(self) -> list[int]:
        """Indices of the volumes to compute; of several with the same voxels the first."""
        return [index for index in self._distinct() if not self._found[index].there]

    @property
    def missing_slices(self) -> int:
        """Slices of the volumes to compute."""
        return sum(self._found[index].slices for index in self.missing)

    @property
    def missing_bytes(self) -> int:
        """Bytes of the files to write."""
        return self.embeddings.estimate(self.missing_slices) + HEADER * len(self.missing)

    def changes(self) -> list[str]:
        """Return a sentence for each way in which what is stored is outdated, naming the cases."""
        near: dict[tuple[str, str], list[EmbeddingEntry]] = {}
        for entry in self.embeddings.store.entries():
            for name in {("image", entry.key.image), ("case", entry.key.case)}:
                near.setdefault(name, []).append(entry)
        outdated: dict[tuple[str, ...], list[str]] = {}
        for index in self.missing:
            key = self._found[index].key
            entries = [*near.get(("image", key.image), []), *near.get(("case", key.case), [])]
            changed = self.embeddings.store.stale(key, sorted(entries, key=lambda e: (e.last_used, e.path.name)))
            outdated.setdefault(changed, []).append(self._cases[index])
        outdated.pop((), None)
        return [
            f"stored embeddings of {some(cases)} are of another {' and '.join(changed)}; they are computed anew, and "
            "the old ones stay until they are removed"
            for changed, cases in outdated.items()
        ]

    def check_room(self) -> None:
        """Refuse to begin what cannot end.

        Raises:
            InputError: ``size_budget`` or the disk is too small for all that is missing.
        """
        together(self._check_room)

    def seconds(self) -> float:
        """Encode a batch of a missing volume and return how long all that is missing will take."""
        encoder, processes = self.embeddings.encoder, process_place()[1]
        if not self.missing:
            return 0.0
        stack = stack_of(self._volumes[self.missing[0]])
        batch = range(min(encoder.batch_size, len(stack)))
        if encoder.device.type == "cuda":
            encoder.embed(stack, batch).cpu()  # the first pass on a GPU sets things up
        start = time.perf_counter()
        encoder.embed(stack, batch).cpu()
        return (time.perf_counter() - start) / len(batch) * self.missing_slices / processes

    def carry_out(self) -> int:
        """Compute what is missing; show the progress on a terminal.

        Returns:
            How many volumes were computed, by all processes of the group; the rest another one has computed.

        Raises:
            InputError: no room is left, or a value is beyond what the precision can hold; what is written stays.
        """
        computed = share_out(self.missing, self._compute)
        self._found = [volume._replace(there=True) for volume in self._found]
        return sum(computed)

    def drop_damaged(self) -> list[str]:
        """Compare the files that are there with their checksums; remove damaged ones, so that they are made anew.

        Returns:
            One sentence for each damaged file.
        """
        there = [index for index in self._distinct() if self._found[index].there]
        damages = share_out(there, lambda share: [self._damages(index) for index in share])
        for index, found in zip(there, damages, strict=True):
            self._found[index] = self._found[index]._replace(there=not found)
        return [damage for found in damages for damage in found]

    def _distinct(self) -> list[int]:
        first: dict[EmbeddingKey, int] = {}
        for index, volume in enumerate(self._found):
            first.setdefault(volume.key, index)
        return list(first.values())

    def _look(self, share: Sequence[int]) -> list[_Volume]:
        found = []
        with _progress(share, len(share), "looking at scans", "scan") as indices:
            for index in indices:
                stack = stack_of(self._volumes[index])
                key = self.embeddings.key(stack, self._cases[index])
                found.append(_Volume(key, len(stack), self.embeddings.has(key)))
        return found

    def _check_room(self) -> None:
        store, wanted = self.embeddings.store, self.missing_bytes
        if not self.missing:
            return
        parts = [path.stat() for i in self.missing if (path := part_of(store.path(self._found[i].key))).exists()]
        used = store.size() - sum(part.st_size for part in parts)
        what = f"the embeddings of {len(self.missing)} volumes ({self.missing_slices} slices) take {size_text(wanted)}"
        if store.size_budget is not None and used + wanted > store.size_budget:
            raise InputError(
                f"{store.folder}: {what}, and {size_text(used)} of size_budget {size_text(store.size_budget)} are "
                "used; raise it, remove old embeddings, or choose a folder of its own with embedding_dir."
            )
        free = free_bytes(store.folder) + sum(getattr(part, "st_blocks", 0) * 512 for part in parts)
        if wanted > free:
            raise InputError(
                f"{store.folder}: {what}, and the disk has {size_text(free)} left; make room, or choose another disk "
                "with embedding_dir."
            )

    def _compute(self, share: Sequence[int]) -> list[bool]:
        mine: dict[int, bool] = {}
        with _progress(None, sum(self._found[i].slices for i in share), "embedding", "slice") as bar:
            waiting = [index for index in share if not self._compute_one(index, mine, bar.update)]
            if waiting:
                logger.info("waiting for another process, which computes %s", some(self._cases[i] for i in waiting))
            while waiting:
                time.sleep(WAIT)
                waiting = [index for index in waiting if not self._compute_one(index, mine, bar.update)]
        return [mine[index] for index in share]

    def _compute_one(self, index: int, mine: dict[int, bool], progress: Callable[[int], object]) -> bool:
        """Have a volume's embeddings there unless another process is writing them; note whether we wrote them."""
        volume = self._found[index]
        writer = self.embeddings.begin(volume.key, volume.slices)
        if writer is not None:
            with writer:
                self.embeddings.fill(writer, stack_of(self._volumes[index]), progress)
        elif self.embeddings.has(volume.key):
            progress(volume.slices)
        else:
            return False
        mine[index] = writer is not None
        return True

    def _damages(self, index: int) -> list[str]:
        store, key = self.embeddings.store, self._found[index].key
        damages = store.verify(key)
        if damages:
            store.path(key).unlink(missing_ok=True)
        return damages


def stack_of(volume: StoredVolume) -> Tensor:
    """Return the upright slices of a volume (N, C, H, W) in memory."""
    image = volume.open()[0]
    return torch.from_numpy(image if image.flags.writeable else np.array(image))


def _progress(items: Any, total: int, what: str, unit: str) -> Any:
    hidden = process_place()[0] > 0 or not sys.stderr.isatty()
    return tqdm(items, total=total, desc=what, unit=unit, disable=hidden)
