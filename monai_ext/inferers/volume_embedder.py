# SPDX-License-Identifier: Apache-2.0
"""Anatomical embeddings of a whole volume, in bounded memory, kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import ceil, inf, prod
from pathlib import Path

import torch
import torch.nn as nn
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.data._embedding_file import DTYPES
from monai_ext.data._encoder_hash import volume_encoder_hash
from monai_ext.data.embedding_key import EmbeddingKey, hash_image, hash_preprocessing
from monai_ext.data.volume_embedding_network import VolumeEmbeddingNetwork
from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from monai_ext.extras import check_flags
from monai_ext.inferers._kept_volumes import KeptVolumes
from monai_ext.inferers._tiles import TilePlan, tile_plans, whole
from monai_ext.inferers._volume_pass import VolumePass
from monai_ext.inferers.slice_wise import device_of
from monai_ext.matching import VolumeEmbedding

logger = logging.getLogger(__name__)

VERSION = 1  # of the way from a volume to the network's input; another number makes all embeddings anew
EXACT = "exact"
SPACING_TOLERANCE = 0.01

_TILED = "%s: embedded in %d tiles, %.1f times the work of the whole, which memory_mb %d would let through at once"


class VolumeEmbedder:
    """Embed whole volumes, tile by tile where memory is short, and read them back where they were embedded before.

    The volume is continued at the end of each axis to whole cells of the global embedding (with the network's
    ``padding_value``, else 0), and cells that describe the continuation alone are dropped. The network is in evaluation
    mode meanwhile.

    With ``memory_mb`` a volume whose forward pass would take more is cut into tiles. They begin at multiples of the
    global stride and overlap by the network's ``halo``, the voxels on which the kept cells depend; nothing is blended.
    Where a tile ends at the border of the volume it sees what the whole volume would. So embeddings are those of the
    whole volume but for rounding, as long as normalisation is batch normalisation, which in evaluation mode does not
    look at the image. The peak is foretold from the network itself, see `ForwardMemory`. Of all tilings within the
    budget the one with the least work is taken: every tile repeats its halo.

    Args:
        spacing: mm of the volumes' voxels, one number or one for each axis. A volume with other voxels is refused;
            one that does not know its voxels (no `MetaTensor`) is taken to have these. None: anything goes, 1 mm.
        memory_mb: MB (10^6 bytes) that a forward pass may take beyond the network, the volume and its embeddings. None:
            volumes go through the network whole.
        precision: in which embeddings are kept in memory and on disk, ``float16`` or ``float32``.
        amp: run the network in mixed precision: bfloat16 on a CPU, else float16 or bfloat16 as the GPU can.
        halo: ``exact``, or voxels along each axis for smaller tiles that are faster and only nearly right: cells
            whose surroundings are cut off see zero padding in their stead. Rounded up to multiples of the global
            stride; of no effect on volumes that fit whole.
        cache_dir: folder in which embeddings are kept, found by the volume's voxels, the network's weights and
            settings, ``amp`` and ``precision``, wherever the volume lies and whatever it is called. None: nowhere.
        size_budget: bytes that this folder may take. The least recently used files, of whatever embeddings, make
            room, so it should be a folder of its own.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
        >>> network = ResNetFPN3d(base_channels=4, embedding_dim=8)
        >>> embedded = VolumeEmbedder(spacing=2.0)(torch.rand(1, 7, 40, 30), network)
        >>> embedded.size, embedded.grid.shape, embedded.coarse_grid.shape
        ((7, 40, 30), (4, 20, 15), (2, 3, 2))
    """

    def __init__(
        self,
        spacing: float | Sequence[float] | None = None,
        memory_mb: float | None = None,
        precision: str = "float16",
        amp: bool = False,
        halo: str | Sequence[int] = EXACT,
        cache_dir: str | Path | None = None,
        size_budget: int | None = None,
    ) -> None:
        check_flags({"amp": amp})
        sides = [spacing] if isinstance(spacing, (int, float)) else list(spacing or [])
        if any(side <= 0 for side in sides):
            raise InputError(f"spacing must be positive (mm), got {spacing}.")
        if memory_mb is not None and memory_mb <= 0:
            raise InputError(f"memory_mb must be positive or None, got {memory_mb}.")
        if precision not in DTYPES:
            raise InputError(f"precision must be {' or '.join(DTYPES)}, got {precision!r}.")
        if isinstance(halo, str) and halo != EXACT:
            raise InputError(f"halo must be {EXACT!r} or voxels along each axis, got {halo!r}.")
        if not isinstance(halo, str) and min(halo, default=-1) < 0:
            raise InputError(f"halo must be {EXACT!r} or voxels from 0 on along each axis, got {halo}.")
        self.spacing = spacing if spacing is None or isinstance(spacing, (int, float)) else tuple(spacing)
        self.memory_mb = memory_mb
        self.precision = precision
        self.amp = amp
        self.halo = halo if isinstance(halo, str) else tuple(halo)
        self.kept = None if cache_dir is None else KeptVolumes(cache_dir, size_budget, precision)

    def __call__(self, image: Tensor, network: nn.Module, case: str = "") -> VolumeEmbedding:
        """Embed a volume.

        Args:
            image: (C, *axes) or (1, C, *axes), oriented, resampled and scaled as the network has learned it.
            network: with ``strides`` (and ``halo``), see `VolumeEmbeddingNetwork`; its result has the names of the
                strides.
            case: name for messages.

        Returns:
            The embeddings where the network is, with the volume's own size and its affine; for a plain tensor that is
            ``spacing`` alone.

        Raises:
            InputError: the volume has other voxels than ``spacing`` or other axes than the network; not even the
                smallest tile fits ``memory_mb``; embeddings are not finite; or the network cannot be kept apart from
                others, which ``cache_dir`` needs.
        """
        inner = unwrap(network)
        strides = getattr(inner, "strides", None)
        if not isinstance(strides, Mapping) or not {"local", "global"} <= set(strides):
            raise InputError(f"{type(inner).__name__} has no strides of a local and a global embedding.")
        single = _single(image, len(strides["global"]))
        affine = self._affine_of(single)
        plain = (single.as_tensor() if isinstance(single, MetaTensor) else single).detach()
        device, dtype = device_of(inner, plain.device), DTYPES[self.precision]
        work = VolumePass(plain, case or "the volume", network, strides, device, self.amp, dtype)
        return VolumeEmbedding(self._maps(work, case), affine, work.size, strides["local"], strides["global"])

    def _maps(self, work: VolumePass, case: str) -> dict[str, Tensor]:
        """Return the embeddings, from the disk if they are there."""
        if self.kept is None:
            return work.embed(self._plan(work))
        key = self._key(work, case)
        maps = self.kept.find(key)
        if maps is None:
            maps = work.embed(self._plan(work))
            self.kept.keep(key, maps, {"network": type(unwrap(work.network)).__name__})
        return {name: x.to(work.device) for name, x in maps.items()}

    def _key(self, work: VolumePass, case: str) -> EmbeddingKey:
        inner = unwrap(work.network)
        if not isinstance(inner, VolumeEmbeddingNetwork):
            raise InputError(
                f"{type(inner).__name__} has no encoder_settings, so that its embeddings cannot be told from those of "
                "other networks; leave cache_dir out."
            )
        # what is only nearly right depends on how the volume is cut
        cut = () if self.halo == EXACT else (self.halo, self.memory_mb)
        preprocessing = hash_preprocessing({"version": VERSION, "padding_value": work.padding_value, "cut": cut})
        voxels = hash_image(work.image.to("cpu", torch.float32))
        return EmbeddingKey(voxels, preprocessing, volume_encoder_hash(inner, self.amp), case=case)

    def _plan(self, work: VolumePass) -> TilePlan:
        """Cut the volume so that no forward pass takes more than ``memory_mb``."""
        plan = whole(work.padded)
        if self.memory_mb is None:
            return plan
        memory = work.memory()
        enough = memory.bytes_of(work.padded) / 1e6
        if enough <= self.memory_mb:
            return plan
        least = inf
        for plan in tile_plans(work.padded, work.block, self._halo(work)):
            # a smaller tile may take more, if convolutions go another way
            needed = max(memory.bytes_of(shape) for shape in plan.shapes) / 1e6
            if needed <= self.memory_mb:
                times = plan.total / prod(work.padded)
                logger.info(_TILED, work.case, len(plan), times, ceil(enough))
                return plan
            least = min(least, needed)
        raise InputError(
            f"{work.case}: memory_mb {self.memory_mb:g} is too small even for the smallest tiles; set it to "
            f"{ceil(least)} or more, or set a smaller halo, which is nearly right."
        )

    def _halo(self, work: VolumePass) -> tuple[int, ...]:
        if not isinstance(self.halo, str):
            if len(self.halo) != len(work.size):
                raise InputError(f"halo must be voxels along each of {len(work.size)} axes, got {self.halo}.")
            return self.halo
        inner = unwrap(work.network)
        halo = getattr(inner, "halo", None)
        if halo is None:
            raise InputError(
                f"{type(inner).__name__} has no halo, so that volumes cannot be cut exactly; leave memory_mb out, or "
                "set halo."
            )
        return tuple(max(sides) for sides in zip(*halo.values(), strict=True))

    def _affine_of(self, image: Tensor) -> Tensor:
        """From voxels to RAS mm, without the third axis that a picture's affine may have."""
        axes = image.ndim - 1
        wanted = torch.tensor(1.0 if self.spacing is None else self.spacing, dtype=torch.float64)
        if wanted.shape not in ((), (axes,)):
            raise InputError(f"spacing must be one number, or one for each of {axes} axes, got {self.spacing}.")
        wanted = wanted.expand(axes)
        if not isinstance(image, MetaTensor):
            return torch.diag(torch.cat([wanted, wanted.new_ones(1)]))
        affine = image.affine.detach().cpu().double()
        keep = [*range(axes), affine.shape[-1] - 1]
        affine = affine[keep][:, keep]
        found = affine[:-1, :-1].norm(dim=0)
        if self.spacing is not None and bool(((found / wanted - 1).abs() > SPACING_TOLERANCE).any()):
            raise InputError(
                f"voxels must be {_text(wanted)} mm, as spacing says, got {_text(found)}; resample the volume."
            )
        return affine


def _single(image: Tensor, axes: int) -> Tensor:
    """Return the one volume (C, *axes) that is meant."""
    if image.ndim == axes + 2 and len(image) == 1:
        image = image[0]
    if image.ndim != axes + 1 or 0 in image.shape:
        raise InputError(f"the network embeds one volume (C, {axes} axes) at a time, got shape {tuple(image.shape)}.")
    return image


def _text(sides: Tensor) -> str:
    return " x ".join(f"{side:.4g}" for side in sides.tolist())
