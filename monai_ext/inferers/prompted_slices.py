# SPDX-License-Identifier: Apache-2.0
"""Whole volumes through a network that takes prompts, and says which it used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ext.data.slices import stack_view, upright
from monai_ext.distributed import unwrap
from monai_ext.inferers._embedding_cache import embed_once
from monai_ext.inferers._slice_prompts import (
    Box,
    Pass,
    Request,
    SlicePrompt,
    plan_passes,
    read_request,
    read_true_boxes,
    texts_of,
)
from monai_ext.inferers._stored_embeddings import StoredEmbeddings, find_stored
from monai_ext.inferers.slice_wise import (
    SliceWiseInferer,
    check_axes,
    checked_logits,
    device_of,
    drops_out,
    precision,
)
from monai_ext.prompts import RECORD, TRUE_BOXES, USER_PROMPTS

SOURCES = ("self", "null", "truth")
Entries = dict[int, dict[str, Any]]


class PromptedSliceInferer(SliceWiseInferer):
    """`SliceWiseInferer` for networks that prompt themselves, where a user may prompt instead.

    The network's ``segment(image, boxes=, points=, point_labels=, first_only=, embedded=)`` is called in place of the
    network itself, also if it is wrapped for several processes or compiled. A slice that the user clicked on or
    drew a box on (`PromptFromRequestd`) is decoded with these prompts; all others get what ``prompt_source`` says.
    A slice with clicks beside the object only, which do not say what it is, is decoded with the self-prompt too.
    Which prompt every slice got is left in the result's metadata, ``meta["prompts"]``, as JSON.

    Clicking again on a slice does not encode it again: the embeddings of the last slices with a user's prompts are
    kept with the network. A volume whose embeddings are in ``embedding_dir`` is decoded from them, without the encoder.

    Args:
        plane: ``axial``, ``coronal`` or ``sagittal`` slices of a volume in RAS orientation.
        slice_context: number of neighbours on each side that the network takes as further channels.
        batch_size: slices per forward pass.
        output: ``labels`` (class indices, uint8) or ``probabilities`` (float32, one channel per output channel).
        threshold: of the probability, for networks with a single output channel.
        amp: run the network in mixed precision.
        prompt_source: ``self``, the box of the network's own first mask; ``null``, none, which shows the first mask;
            ``truth``, the box of the label (`TrueBoxd`), and ``self`` on slices without an object.
        only_prompted: segment nothing but the slices that the user prompted, the rest is background. None: if the
            request names its ``slice`` and slices are cut in this direction, that slice alone, as the client (Slicer's
            and OHIF's 2-D editing) takes no other from the result; else the whole volume, of which the client
            replaces everything.
        cached_slices: number of embeddings kept (at 1024 pixels 4 MB each for SAM-SP, 42 MB for DeSAM with ViT-B); 0
            keeps none. Slices without a user's prompts are never kept, nor are those of a request with more slices
            than this.
        embedding_dir: folder of embeddings that `python -m monai_ext embed` or training has written, for networks that
            can work from them (`monai_ext.data.embedding_network`). They are read if they are of the same voxels,
            weights and settings; nothing is written. None: the encoder runs.

    Raises:
        InputError: by the call, if a stored embedding is damaged.
        TypeError: by the call, for a network without ``segment``.

    Example:
        >>> from bundle import network  # doctest: +SKIP
        >>> PromptedSliceInferer(plane="coronal")(volume, network).meta["prompts"]  # doctest: +SKIP
        '{"plane": "coronal", "prompt_source": "self", "slices": [{"index": 0, "prompt": "null", "box": null}, ...]}'
    """

    def __init__(
        self,
        plane: str = "axial",
        slice_context: int = 0,
        batch_size: int = 8,
        output: str = "labels",
        threshold: float = 0.5,
        amp: bool = False,
        prompt_source: str = "self",
        only_prompted: bool | None = None,
        cached_slices: int = 32,
        embedding_dir: str | None = None,
    ) -> None:
        super().__init__(plane, slice_context, batch_size, output, threshold, amp)
        if prompt_source not in SOURCES:
            raise ValueError(f"prompt_source must be one of {', '.join(SOURCES)}, got {prompt_source!r}.")
        if cached_slices < 0:
            raise ValueError(f"cached_slices must be 0 or more, got {cached_slices}.")
        self.prompt_source = prompt_source
        self.only_prompted = only_prompted
        self.cached_slices = cached_slices
        self.embedding_dir = embedding_dir

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Segment images.

        Args:
            inputs: volumes (B, C, X, Y, Z) in RAS or pictures (B, C, X, Y), with prompts in their metadata or not.
            network: has ``segment``, from slices (N, C * (2 * slice_context + 1), H, W) and prompts to logits
                (N, K, H, W), the boxes used (N, 4) and the names of the prompts used; perhaps also ``places``, lists
                of points that it chose by itself, and ``ious`` (N, n) that it predicts, which are recorded.
            args: handed to ``segment``.
            kwargs: handed to ``segment``.

        Returns:
            Labels (B, 1, X, Y[, Z]) or probabilities (B, K, X, Y[, Z]) where the inputs are, with their metadata and
            the record of the prompts, one text per image if the inputs are a batch of a data loader.
        """
        check_axes(inputs)
        segmenter = _segmenter(network)
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        results, records = [], []
        for image, asked, boxes in zip(
            plain, texts_of(inputs, USER_PROMPTS), texts_of(inputs, TRUE_BOXES), strict=True
        ):
            request = read_request(asked, image.shape[1:], self.plane)
            truth = read_true_boxes(boxes, image.shape[1:], self.plane) if self.prompt_source == "truth" else []
            result, entries = self._segment_image(image, segmenter, request, truth, (args, kwargs))
            results.append(result)
            slices = [{"index": index, **entries[index]} for index in sorted(entries)]
            records.append(json.dumps({"plane": self.plane, "prompt_source": self.prompt_source, "slices": slices}))
        if not isinstance(inputs, MetaTensor):
            return torch.stack(results)
        found = MetaTensor(torch.stack(results)).copy_meta_from(inputs)
        single = len(records) == 1 and not inputs.is_batch
        found.meta = {**found.meta, RECORD: records[0] if single else records}
        return found

    def _segment_image(
        self, image: Tensor, segmenter: Any, request: Request, truth: Sequence[Box | None], more: tuple[Any, Any]
    ) -> tuple[Tensor, Entries]:
        slices, is_volume = stack_view(image, self.plane), image.ndim == 4  # (N, C, H, W)
        wanted = self._wanted(request, len(slices))
        if not wanted:
            raise ValueError(f"the image has no slices: shape {tuple(image.shape)}.")
        asked = {index: request.prompts[index] for index in wanted if index in request.prompts}
        alone = 0 < len(asked) <= self.cached_slices and hasattr(segmenter, "embed")
        stored = find_stored(
            segmenter,
            slices,
            is_volume,
            self.embedding_dir,
            plane=self.plane,
            slice_context=self.slice_context,
            amp=self.amp,
        )
        device = device_of(segmenter, image.device)
        given = asked | {i: SlicePrompt(box=truth[i]) for i in wanted if i not in asked and truth and truth[i]}
        source = "null" if self.prompt_source == "null" else "self"
        result: Tensor | None = None
        entries: Entries = {}
        for one in plan_passes(wanted, asked, source, self.batch_size, alone):
            batch = self._batch(slices, one.indices, is_volume).to(device, torch.float32)
            embed = self._embedder(segmenter, one, alone and one.indices[0] in asked, stored)
            found, used = self._segment(segmenter, batch, one, given, embed, more)
            entries |= dict(zip(one.indices, used, strict=True))
            found = found.to(image.device)
            if result is None:
                result = _background(found, image)
            stack_view(result, self.plane)[one.indices] = upright(found, is_volume)
        assert result is not None  # noqa: S101 - there is at least one slice
        return result, entries

    def _wanted(self, request: Request, count: int) -> list[int]:
        if self.only_prompted is not False and request.only is not None:
            return [request.only]
        if self.only_prompted and request.prompts:
            return sorted(request.prompts)
        return list(range(count))

    def _embedder(
        self, segmenter: Any, one: Pass, keep: bool, stored: StoredEmbeddings | None
    ) -> Callable[[Tensor], Any] | None:
        """Return what gives a pass's embeddings, None where ``segment`` may as well run the encoder itself."""
        if stored is not None:
            return partial(stored.of, one.indices)
        if keep:
            return lambda batch: embed_once(segmenter, segmenter.embed, batch, self.amp, self.cached_slices)
        return getattr(segmenter, "embed", None) if one.kind == "corrected" else None

    def _segment(
        self,
        segmenter: Any,
        batch: Tensor,
        one: Pass,
        given: Mapping[int, SlicePrompt],
        embed: Callable[[Tensor], Any] | None,
        more: tuple[Any, Any],
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Return the result of a pass (n, 1 or K, H, W), no logits, and what is to be recorded of each slice."""
        args, kwargs = more
        asked = [given.get(index, SlicePrompt()) for index in one.indices]
        prompts = _prompt_tensors(asked, batch)
        with precision(batch.device, self.amp):
            if embed is not None:
                prompts["embedded"] = embed(batch)
            segment = partial(segmenter.segment, batch, *args, **kwargs)
            if one.kind == "corrected":
                found = _corrected(segment, prompts, self.prompt_source == "null")
            else:
                found = segment(first_only=one.kind == "null", **prompts)
        used = [_entry(found, number, prompt) for number, prompt in enumerate(asked)]
        return self._finish(checked_logits(found.logits, batch), drops_out(segmenter)), used


def _segmenter(network: Callable[..., Any]) -> Any:
    inner = unwrap(network) if isinstance(network, nn.Module) else network
    if not isinstance(inner, nn.Module) or not hasattr(inner, "segment"):
        raise TypeError(
            f"PromptedSliceInferer wants a network with a method `segment`, {type(inner).__name__} has none; use "
            "monai_ext.inferers.SliceWiseInferer for networks without prompts."
        )
    return inner


def _prompt_tensors(prompts: Sequence[SlicePrompt], batch: Tensor) -> dict[str, Any]:
    """Return boxes (n, 4), points (n, N, 2) and point_labels (n, N) as far as there are any."""
    tensors: dict[str, Any] = {}
    if any(prompt.box is not None for prompt in prompts):
        none = (float("nan"),) * 4
        tensors["boxes"] = batch.new_tensor([none if prompt.box is None else prompt.box for prompt in prompts])
    if prompts[0].points:
        tensors["points"] = batch.new_tensor([prompt.points for prompt in prompts])
        tensors["point_labels"] = torch.tensor([prompt.labels for prompt in prompts], device=batch.device)
    return tensors


def _corrected(segment: Callable[..., Any], prompts: Mapping[str, Any], first_only: bool) -> Any:
    """Decode clicks beside the object together with the box that the network finds; where it finds none, so be it."""
    embedded = {name: value for name, value in prompts.items() if name == "embedded"}
    own = segment(first_only=first_only, **embedded)
    return own if bool(own.boxes.isnan().any()) else segment(boxes=own.boxes, **prompts)


def _entry(found: Any, number: int, asked: SlicePrompt) -> dict[str, Any]:
    """Return what is recorded of a slice: the prompt's name, its box or None, points given or chosen, and IoUs."""
    box, ious = found.boxes[number].tolist(), getattr(found, "ious", None)
    entry: dict[str, Any] = {"prompt": found.prompts[number], "box": None}
    if not any(math.isnan(value) for value in box):
        entry["box"] = [round(value, 3) for value in box]
    if asked.points:
        entry["points"] = [[*point, label] for point, label in zip(asked.points, asked.labels, strict=True)]
    elif getattr(found, "places", None) and found.places[number]:
        entry["points"] = [[round(value, 3) for value in place] + [1] for place in found.places[number]]
    if ious is not None and not bool(ious[number].isnan().any()):
        entry["predicted_iou"] = [round(value, 4) for value in ious[number].tolist()]
    return entry


def _background(found: Tensor, image: Tensor) -> Tensor:
    """Return room for the results of all slices, at first background for sure."""
    result = image.new_zeros((found.shape[1], *image.shape[1:]), dtype=found.dtype)
    if found.shape[1] > 1:
        result[0] = 1
    return result
