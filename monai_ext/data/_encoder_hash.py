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
from monai_ext.data.volume_embedding_network import VolumeEmbeddingNetwork


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
    settings = {"settings": dict(network.encoder_settings), "shapes": dict(network.embedding_shapes)}
    return kept_hash(network, network.encoder_state(), amp, settings)


def volume_encoder_hash(network: nn.Module, amp: bool) -> str:
    """Return the same of a network that embeds whole volumes, all of whose weights count.

    Raises:
        TypeError: the network is no `VolumeEmbeddingNetwork`.
    """
    if not isinstance(network, VolumeEmbeddingNetwork):
        raise TypeError(f"{type(network).__name__} is no VolumeEmbeddingNetwork.")
    settings = {"settings": dict(network.encoder_settings), "strides": dict(network.strides)}
    return kept_hash(network, network.state_dict(), amp, settings)


def kept_hash(network: nn.Module, state: Mapping[str, Tensor], amp: bool, settings: Mapping[str, object]) -> str:
    """Return the hash of weights and settings of a network, computed anew only if one of them has changed."""
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
