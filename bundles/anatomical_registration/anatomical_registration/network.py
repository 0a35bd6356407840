# SPDX-License-Identifier: Apache-2.0
"""Registration learned on top of frozen anatomical embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.blocks.correlation_readout import CorrelationReadout
from monai_ext.networks.checkpoints import check, load_anatomical_embedding, read_state
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.bound_weights import SUFFIX, BoundWeights
from monai_ext.networks.layers.local_correlation import LocalCorrelation
from monai_ext.networks.layers.recording import is_recorded
from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from monai_ext.networks.nets.sam_voxelmorph import DECODER_CHANNELS, ENCODER_CHANNELS, FINAL_CHANNELS, SAMVoxelMorph

logger = logging.getLogger(__name__)

KIND = "sam_voxelmorph"
LEVELS = 4  # with fewer the U-Net continues a scan less far than the embedder


class AnatomicalRegistrationNet(nn.Module):
    """SAM-VoxelMorph with the embedder that it listens to (SAME++, Tian et al. 2023, https://arxiv.org/abs/2311.14986).

    ::

        moving ─┬─ embedder (frozen) ─┐
                │                     ├─ correlation, 27 channels ─┐
        fixed ──┼─ embedder (frozen) ─┘                            ├─ SAMVoxelMorph ─ displacement
                └───────────────── focus ──────────────────────────┘

    The embedder never learns and never leaves evaluation mode. In training the outputs hold all that
    `monai_ext.losses.EmbeddedPairLoss` needs.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of one scan; the network takes two of them, so that its attribute ``in_channels`` is twice this.
        base_channels: of the embedder, as all up to ``padding_value``; see `AnatomicalEmbeddingNet`.
        embedding_dim: see there.
        lateral_kernel: see there.
        semantic_head: see there.
        stage_channels: see there.
        norm: see there.
        pixel_scale: see there.
        pixel_shift: see there.
        padding_value: see there.
        encoder_channels: of `SAMVoxelMorph`, at least four: the embedder continues a scan to multiples of 16 voxels.
        decoder_channels: of `SAMVoxelMorph`.
        final_channels: of `SAMVoxelMorph`.
        use_correlation: give it the correlation of the embeddings; without, this is the plain VoxelMorph.
        align_corners: of `LocalCorrelation`; true as published.
        integration_steps: of scaling and squaring.
        focus: two values of the scaled images that become 0 and 1 for SAMVoxelMorph and the loss, what lies beyond
            them cut off; None takes the images as the embedder gets them.
        with_embeddings: return embeddings in training, for the SAM term of the loss.
        embedder_path: weights of the embedder: ``model.pt`` of the bundle anatomical_embedding, or the authors' file.
        untrained_embedder: allow a random embedder where none is given.
        center_correlation: of `LocalCorrelation`; false as published.
        readout_sigma: of `SAMVoxelMorph`; None as published. Without the correlation there is nothing to read out.

    Shape:
        image (B, 2 in_channels, *spatial): the moving scan's channels, then the fixed one's, on one grid, scaled as the
        embedder has learned it -> displacement (B, spatial_dims, *spatial) in voxels, from fixed to moving. In training
        mode a dictionary: ``displacement``, ``velocity``, ``fixed`` and ``moving`` in focus, and with embeddings
        ``fixed_local``, ``moving_local``, ``fixed_global`` and ``moving_global``.

    Raises:
        ValueError: an argument out of its range; an image of another number of axes or channels.

    Example:
        >>> network = AnatomicalRegistrationNet(base_channels=2, embedding_dim=4).eval()
        >>> network(torch.rand(1, 2, 7, 30, 32)).shape
        torch.Size([1, 3, 7, 30, 32])
    """

    exports_any_size = True  # sizes inside are computed from the image's, symbolically

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        base_channels: int = 64,
        embedding_dim: int = 128,
        lateral_kernel: int | None = 1,
        semantic_head: bool = False,
        stage_channels: Sequence[int] | None = None,
        norm: str | tuple = "batch",
        pixel_scale: float = 255.0,
        pixel_shift: float = -50.0,
        padding_value: float = 0.0,
        encoder_channels: Sequence[int] = ENCODER_CHANNELS,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        final_channels: Sequence[int] = FINAL_CHANNELS,
        use_correlation: bool = True,
        align_corners: bool = False,
        integration_steps: int = 7,
        focus: Sequence[float] | None = None,
        with_embeddings: bool = True,
        embedder_path: str | Path | None = None,
        untrained_embedder: bool = False,
        center_correlation: bool = False,
        readout_sigma: float | None = None,
    ) -> None:
        super().__init__()
        if len(encoder_channels) < LEVELS:
            raise ValueError(f"encoder_channels must be at least {LEVELS} numbers, got {list(encoder_channels)}.")
        if focus is not None and (len(focus) != 2 or not focus[0] < focus[1]):
            raise ValueError(f"focus must be two rising numbers or None, got {focus}.")
        self.spatial_dims = spatial_dims
        self.in_channels = 2 * in_channels
        self.use_correlation = use_correlation
        self.with_embeddings = with_embeddings
        self.focus = None if focus is None else (float(focus[0]), float(focus[1]))
        self.embedder_path = embedder_path
        self.untrained_embedder = untrained_embedder
        self.embedder = AnatomicalEmbeddingNet(
            spatial_dims, in_channels, base_channels, embedding_dim, lateral_kernel, semantic_head, stage_channels,
            norm, pixel_scale, pixel_shift, padding_value,
        )  # fmt: skip
        self.embedder.requires_grad_(False)
        self.correlation = LocalCorrelation(align_corners, center=center_correlation)
        self.registration = SAMVoxelMorph(
            spatial_dims, 2 * in_channels, encoder_channels, decoder_channels, final_channels, use_correlation,
            integration_steps, readout_sigma if use_correlation else None,
        )  # fmt: skip
        self.train(self.training)

    def train(self, mode: bool = True) -> AnatomicalRegistrationNet:
        """Set the mode of what learns; the embedder stays in evaluation mode."""
        super().train(mode)
        self.embedder.eval()
        return self

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        self._check(image)
        needed = self.use_correlation or (self.training and self.with_embeddings)
        embedded = self._embed_both(image) if needed else {}
        seen = self._focused(image)
        features = self.correlation(embedded["fixed"], embedded["moving"]) if self.use_correlation else None
        found = self.registration(seen, features)
        if not self.training:
            return found
        outputs = {"displacement": found[0], "velocity": found[1]}
        outputs |= dict(zip(("moving", "fixed"), seen.chunk(2, dim=1), strict=True))
        if self.with_embeddings:
            outputs |= {f"{name}_{level}": x for name, maps in embedded.items() for level, x in maps.items()}
        return outputs

    @property
    def readout(self) -> CorrelationReadout | None:
        """What is read out of the correlation without the U-Net, if anything is."""
        return self.registration.readout

    def correlate(self, image: Tensor) -> Tensor:
        """Return the correlation (B, 3 ** axes, *cells) of a pair."""
        self._check(image)
        embedded = self._embed_both(image)
        return self.correlation(embedded["fixed"], embedded["moving"])

    def load_pretrained(self, path: str | Path | None = None) -> AnatomicalRegistrationNet:
        """Load the embedder from ``embedder_path``, and from ``path`` what was learned on top of it.

        Args:
            path: a ``model.pt`` of this bundle, which has its embedder inside, or the ``.safetensors`` of
                `save_registration`, which needs the embedder that it was trained with. None: nothing was learned yet.

        Raises:
            InputError: there is no trained embedder and ``untrained_embedder`` does not allow a random one; a file is
                missing, or belongs to another network or to another embedder.
        """
        if path and Path(path).suffix != SUFFIX:
            state = read_state(path)
            check(state, self.state_dict(), str(path), "use the knobs of the network that it was saved from.")
            self.load_state_dict(state)
            logger.info("Loaded the registration and its embedder from %s.", path)
            return self
        self._load_embedder()
        return self.load_registration(path) if path else self

    def save_registration(self, path: str | Path) -> None:
        """Write what learns, without the embedder, whose hash is written with it.

        Raises:
            InputError: the name does not end in ``.safetensors``.
        """
        notes = {"embedder": repr(self.embedder.encoder_settings)}
        BoundWeights(KIND, base_hash(self.embedder), self.registration.state_dict(), notes).write(path)

    def load_registration(self, path: str | Path) -> AnatomicalRegistrationNet:
        """Load what `save_registration` wrote; nothing is changed if anything does not fit.

        Raises:
            InputError: the file is missing, damaged, of another network, or belongs to another embedder.
        """
        weights, hash_ = BoundWeights.read(path, KIND), base_hash(self.embedder)
        if (weights.base, weights.notes.get("embedder")) != (hash_, repr(self.embedder.encoder_settings)):
            raise InputError(
                f"{path}: was trained on another embedder (hash {weights.base[:12]}, this network's {hash_[:12]}, or "
                "other pixel_scale, pixel_shift, padding_value); set embedder_path to the one it was trained on."
            )
        check(weights.state, self.registration.state_dict(), str(path), "use the knobs that it was trained with.")
        self.registration.load_state_dict(weights.state)
        logger.info("Loaded the registration from %s.", path)
        return self

    def _load_embedder(self) -> None:
        if self.embedder_path:
            load_anatomical_embedding(self.embedder, self.embedder_path)
        elif (self.use_correlation or self.with_embeddings) and not self.untrained_embedder:
            raise InputError(
                "embedder_path is not set: registration needs a trained embedder. Train the bundle "
                "anatomical_embedding on scans of this kind and give its models/model.pt, or a published file; for a "
                "try without: untrained_embedder true."
            )
        else:
            logger.warning("The embedder is random: what it says of two scans means little.")

    def _embed_both(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        return {name: self._embed(scan) for name, scan in zip(("moving", "fixed"), image.chunk(2, dim=1), strict=True)}

    def _embed(self, scan: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            found = self.embedder(scan)
        # by name, or as a tuple while it is recorded; a semantic embedding, if there is one, is the third
        maps = found if isinstance(found, Mapping) else {"local": found[0], "global": found[1]}
        return {name: maps[name] for name in ("local", "global")}

    def _focused(self, image: Tensor) -> Tensor:
        if self.focus is None:
            return image
        low, high = self.focus
        return ((image - low) / (high - low)).clamp(0, 1)

    def _check(self, image: Tensor) -> None:
        if is_recorded():
            return
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"image must be (B, {self.in_channels}, {self.spatial_dims} axes), the moving scan's channels and then "
                f"the fixed one's, got {tuple(image.shape)}."
            )
