# SPDX-License-Identifier: Apache-2.0
"""A network's frozen encoder applied to slices of a volume, as training and inference apply it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_ext.data._encoder_hash import encoder_hash
from monai_ext.data.embedding_network import EmbeddingNetwork
from monai_ext.data.slices import context_indices
from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from monai_ext.evaluating import evaluating
from monai_ext.extras import check_flags


class SliceEncoder:
    """Turns slices, with their neighbours as further channels, into the maps of a network's encoder.

    The network is in evaluation mode and without gradients while it encodes, and afterwards in the mode it was in.

    Args:
        network: an `EmbeddingNetwork`, also if it is wrapped for several processes or compiled.
        slice_context: number of neighbours on each side that it takes as further channels.
        batch_size: slices per forward pass that are worth while.
        amp: run the encoder in mixed precision: bfloat16 on a CPU, else float16 or bfloat16 as the GPU can.

    Raises:
        InputError: the network offers no embeddings, or an argument is out of range.

    Example:
        >>> SliceEncoder(network).embed(torch.rand(30, 1, 200, 180), [0, 1]).shape  # doctest: +SKIP
        torch.Size([2, 2560, 64, 64])
    """

    def __init__(self, network: nn.Module, slice_context: int = 0, batch_size: int = 4, amp: bool = False) -> None:
        inner = unwrap(network)
        if not isinstance(inner, EmbeddingNetwork):
            raise InputError(
                f"{type(inner).__name__} cannot work from embeddings: it has no embed(), embedded(), embedding_shapes "
                "and encoder_state(); set embedding_cache to none, or take a network that has them, such as DeSAM."
            )
        if slice_context < 0:
            raise InputError(f"slice_context must be 0 or more, got {slice_context}.")
        if batch_size < 1:
            raise InputError(f"the batch size of embeddings must be at least 1, got {batch_size}.")
        check_flags({"amp": amp})
        self.network: nn.Module = inner
        self.slice_context = slice_context
        self.batch_size = batch_size
        self.amp = amp
        self._embeds: EmbeddingNetwork = inner

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Name -> shape of each map, in the order in which `embed` lays them one behind another."""
        return dict(self._embeds.embedding_shapes)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((weight.device for weight in self.network.parameters()), torch.device("cpu"))

    def hash(self) -> str:
        """Return what tells this encoder, with its weights as they are now, from all others."""
        return encoder_hash(self.network, self.amp)

    def require_frozen(self) -> None:
        """Refuse an encoder that training changes.

        Raises:
            InputError: saying what to do.
        """
        if not self._embeds.encoder_is_frozen:
            raise InputError(
                f"embeddings can be kept only if training leaves the encoder as it is, and that of "
                f"{type(self.network).__name__} is trained; set embedding_cache to none, or tuning to frozen."
            )

    @torch.no_grad()
    def embed(self, stack: Tensor, indices: Sequence[int]) -> Tensor:
        """Encode slices of an upright stack.

        Args:
            stack: (N, C, H, W), on any device.
            indices: of the slices.

        Returns:
            (n, F, g, g) where the network is: the maps of `shapes` one behind another.

        Raises:
            ValueError: the network gives maps of other shapes than it announces.
        """
        near = [context_indices(index, len(stack), self.slice_context) for index in indices]
        batch = stack[torch.tensor(near, device=stack.device)].flatten(1, 2).to(self.device, torch.float32)
        with evaluating(self.network), _precision(batch.device, self.amp):
            features = self._embeds.embed(batch).features
        shapes = self.shapes
        expected = (len(near), sum(shape[0] for shape in shapes.values()), *next(iter(shapes.values()))[1:])
        if tuple(features.shape) != expected:
            raise ValueError(f"embeddings of {shapes} must be {expected}, got {tuple(features.shape)}.")
        return features


def _precision(device: torch.device, amp: bool) -> torch.autocast:
    """Return the context of a forward pass, the same as that of the inferers."""
    lacking = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.float16 if lacking else torch.bfloat16, enabled=amp)
