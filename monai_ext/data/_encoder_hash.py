# SPDX-License-Identifier: Apache-2.0
"""The hash of a network's encoder, read from its weights only when they may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from monai_ext.data.embedding_key import hash_encoder
from monai_ext.data.embedding_network import EmbeddingNetwork


class _Known(NamedTuple):
    marks: str
    state: Mapping[str, Tensor]  # held, so that no other tensor can come to lie at the same place
    hash: str


_known: WeakKeyDictionary[nn.Module, dict[bool, _Known]] = WeakKeyDictionary()
_lock = Lock()


def encoder_hash(network: nn.Module, amp: bool) -> str:
    """Return the hash of all that a network's embeddings depend on: weights, settings, shapes, mixed precision.

    Weights are known by place and version, which every change in place counts up, and are read again only if one of
    these has changed. It is kept for the network, not for who asks: a label server asks anew for each request.

    Raises:
        TypeError: the network is no `EmbeddingNetwork`.
    """
    if not isinstance(network, EmbeddingNetwork):
        raise TypeError(f"{type(network).__name__} is no EmbeddingNetwork.")
    state = network.encoder_state()
    settings = {"settings": dict(network.encoder_settings), "shapes": dict(network.embedding_shapes)}
    marks = repr(([_mark(name, weight) for name, weight in state.items()], settings))
    with _lock:
        known = _known.setdefault(network, {}).get(amp)
    if known is None or known.marks != marks:
        known = _Known(marks, state, hash_encoder(state, **settings, amp=amp))
        with _lock:
            _known.setdefault(network, {})[amp] = known
    return known.hash


def _mark(name: str, weight: Tensor) -> tuple[str, int, int, str]:
    version = 0 if weight.is_inference() else weight._version
    return name, weight.data_ptr(), version, f"{weight.device} {weight.dtype} {tuple(weight.shape)}"
