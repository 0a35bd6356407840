# SPDX-License-Identifier: Apache-2.0
"""What a network made of slices that a user is clicking on, kept until other slices push it out."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")


class EmbeddingCache:
    """The embeddings used last, by key; threads may share it."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, object] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, make: Callable[[], object], limit: int) -> object:
        """Return the entry, made first if it is not there; no more than ``limit`` entries stay."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        made = make()  # outside of the lock: another slice need not wait for this one
        with self._lock:
            self._entries[key] = made
            while len(self._entries) > limit:
                self._entries.popitem(last=False)
        return made


_caches: WeakKeyDictionary[nn.Module, EmbeddingCache] = WeakKeyDictionary()
_lock = Lock()


def cache_of(network: nn.Module) -> EmbeddingCache:
    """Return the network's own cache, which goes when the network goes.

    It is not the inferer's: MONAI Label may build a new inferer for each request, but keeps its networks.
    """
    with _lock:
        return _caches.setdefault(network, EmbeddingCache())


def slice_key(batch: Tensor, network: nn.Module, amp: bool) -> str:
    """Return a key of what decides about an embedding: the slices' values, the weights as they are now, precision.

    Weights are known by place and version, which every change in place counts up, so that none has to be read.
    """
    digest = hashlib.blake2b(batch.cpu().contiguous().numpy().tobytes(), digest_size=16)
    weights = [*network.parameters(), *network.buffers()]
    state = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in weights]
    digest.update(repr((tuple(batch.shape), batch.device, network.training, amp, state)).encode())
    return digest.hexdigest()


def embed_once(network: nn.Module, embed: Callable[[Tensor], T], batch: Tensor, amp: bool, limit: int) -> T:
    """Return ``embed(batch)``, from the network's cache if it has been asked before."""
    with torch.no_grad():
        return cast(T, cache_of(network).get(slice_key(batch, network, amp), lambda: embed(batch), limit))
