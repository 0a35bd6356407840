# SPDX-License-Identifier: Apache-2.0
"""Whole volumes through a 2-D network, slice by slice, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_ext.data.slices import check_plane, context_indices, stack_view, upright
from monai_ext.extras import check_flags

OUTPUTS = ("labels", "probabilities")
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class SliceWiseInferer(Inferer):
    """Segment volumes slice by slice, and pictures, with a 2-D network; keep the labels, not the logits.

    The slices, with their neighbours as further channels, go to the network's device in batches, upright as a
    screen shows them (the same way as `monai_ext.data.SliceDataset` gives them in training); what comes back is
    turned back and kept where the input is, one byte a voxel. Nothing is stored in the inferer, so threads may
    share one.

    A network whose dropout is at work, as MONAI Label's scoring sets it to ask how unsure the network is, gives
    probabilities of all classes whatever ``output`` says: the mean of labels means nothing.

    Args:
        plane: ``axial``, ``coronal`` or ``sagittal`` slices of a volume in RAS orientation.
        slice_context: number of neighbours on each side that the network takes as further channels.
        batch_size: slices per forward pass.
        output: ``labels`` (class indices, uint8) or ``probabilities`` (float32, one channel per output channel).
        threshold: of the probability, for networks with a single output channel.
        amp: run the network in mixed precision: bfloat16 on a CPU, else float16 or bfloat16 as the GPU can.
        paper_stretch: stretch each slice's probabilities to 0..1 as SAM2-UNet's published test does; it makes
            some object appear on every slice, so leave it off unless you compare with published maps.

    Example:
        >>> inferer = SliceWiseInferer(plane="coronal", batch_size=4)
        >>> inferer(torch.rand(1, 1, 5, 6, 7), lambda slices: slices - 0.5).shape
        torch.Size([1, 1, 5, 6, 7])
    """

    def __init__(
        self,
        plane: str = "axial",
        slice_context: int = 0,
        batch_size: int = 8,
        output: str = "labels",
        threshold: float = 0.5,
        amp: bool = False,
        paper_stretch: bool = False,
    ) -> None:
        super().__init__()
        check_plane(plane)
        if slice_context < 0:
            raise ValueError(f"slice_context must be 0 or more, got {slice_context}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}.")
        self.plane = plane
        self.slice_context = slice_context
        self.batch_size = batch_size
        self.output = output
        self.threshold = threshold
        check_flags({"amp": amp, "paper_stretch": paper_stretch})
        self.amp = amp
        self.paper_stretch = paper_stretch

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Segment images.

        Args:
            inputs: volumes (B, C, X, Y, Z) in RAS or pictures (B, C, X, Y).
            network: from slices (N, C * (2 * slice_context + 1), H, W) to logits (N, K, H, W), or a list of such
                whose first is taken.
            args: handed to the network.
            kwargs: handed to the network.

        Returns:
            Labels (B, 1, X, Y[, Z]) or probabilities (B, K, X, Y[, Z]) where the inputs are, with their metadata. With
            dropout at work, probabilities with background first, also of a single output channel.
        """
        check_axes(inputs)
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        device = device_of(network, plain.device)
        result = torch.stack([self._one(image, network, device, args, kwargs) for image in plain])
        return MetaTensor(result).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else result

    def _one(self, image: Tensor, network: Callable[..., Any], device: torch.device, args: Any, kwargs: Any) -> Tensor:
        slices = stack_view(image, self.plane)  # (N, C, H, W)
        result: Tensor | None = None
        for start in range(0, len(slices), self.batch_size):
            stop = min(start + self.batch_size, len(slices))
            batch = self._batch(slices, range(start, stop), is_volume=image.ndim == 4).to(device, torch.float32)
            found = self._finish(self._run(network, batch, args, kwargs), drops_out(network)).to(image.device)
            if result is None:
                result = image.new_empty((found.shape[1], *image.shape[1:]), dtype=found.dtype)
            stack_view(result, self.plane)[start:stop] = upright(found, is_volume=image.ndim == 4)
        if result is None:
            raise ValueError(f"the image has no slices: shape {tuple(image.shape)}.")
        return result

    def _batch(self, slices: Tensor, indices: Sequence[int], is_volume: bool) -> Tensor:
        near = [context_indices(i, len(slices), self.slice_context) for i in indices]
        batch = slices[torch.tensor(near, device=slices.device)]  # (n, 2k + 1, C, H, W)
        return upright(batch.flatten(1, 2), is_volume)

    def _run(self, network: Callable[..., Any], batch: Tensor, args: Any, kwargs: Any) -> Tensor:
        with precision(batch.device, self.amp):
            logits = network(batch, *args, **kwargs)
        return checked_logits(logits[0] if isinstance(logits, list | tuple) else logits, batch)

    def _finish(self, logits: Tensor, sampled: bool = False) -> Tensor:
        """Turn logits (N, K, H, W) into labels (N, 1, H, W), or probabilities of outputs or, if sampled, of classes."""
        if sampled:
            return torch.cat([-logits, logits], dim=1).sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        if logits.shape[1] > 1:
            if self.output == "probabilities":
                return logits.softmax(dim=1)
            return logits.argmax(dim=1, keepdim=True).to(torch.uint8)
        probability = logits.sigmoid()
        if self.paper_stretch:
            probability = _stretch(probability)
        return probability if self.output == "probabilities" else (probability > self.threshold).to(torch.uint8)


def check_axes(inputs: Tensor) -> None:
    """Refuse what is neither a batch of volumes nor one of pictures."""
    if inputs.ndim not in (4, 5):
        raise ValueError(f"inputs must be (B, C, X, Y) or (B, C, X, Y, Z), got shape {tuple(inputs.shape)}.")


def device_of(network: Callable[..., Any], fallback: torch.device) -> torch.device:
    """Return where the network's parameters are, ``fallback`` if it has none."""
    if isinstance(network, nn.Module):
        return next((parameter.device for parameter in network.parameters()), fallback)
    return fallback


def drops_out(network: Callable[..., Any]) -> bool:
    """Return whether the network's dropout is at work, so that its answers are samples."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return any(isinstance(module, DROPOUTS) and module.training and module.p > 0 for module in modules)


def precision(device: torch.device, amp: bool) -> torch.autocast:
    """Return the context in which the network runs: mixed precision if ``amp``, else full."""
    lacking = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.float16 if lacking else torch.bfloat16, enabled=amp)


def checked_logits(logits: Tensor, batch: Tensor) -> Tensor:
    """Return logits as float32; they must be of the size of the slices."""
    if logits.shape[-2:] != batch.shape[-2:]:
        raise ValueError(
            f"the network must give logits of the input's size {tuple(batch.shape[-2:])}, "
            f"got {tuple(logits.shape[-2:])}."
        )
    return logits.float()


def _stretch(probability: Tensor) -> Tensor:
    lowest, highest = probability.amin((-1, -2), keepdim=True), probability.amax((-1, -2), keepdim=True)
    return (probability - lowest) / (highest - lowest + 1e-8)
