# SPDX-License-Identifier: Apache-2.0
"""A first affine map between two scans, found once for each pair and kept."""

from __future__ import annotations

import json
import logging
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.data import MetaTensor
from torch import Tensor
from tqdm import tqdm

import monai_ext
from monai_ext.data._share_out import all_have_looked, share_out
from monai_ext.data.embedding_key import hash_encoder
from monai_ext.data.fingerprint import describe, digest
from monai_ext.data.pair_source import PairSource
from monai_ext.distributed import is_main
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.inferers.volume_embedder import VolumeEmbedder
from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import SAMAffine
from monai_ext.shipping.body_mask import body_mask

logger = logging.getLogger(__name__)

MODES = ("none", "center", "affine")
KEPT = 2  # embeddings in memory: those of a CT take some 250 MB


class Prealigner:
    """Aligns pairs before a network deforms them, in the main process, so that workers of a data loader need none.

    - ``none``: the scans' worlds are one, as in follow-ups of one session.
    - ``center``: the middle of the fixed scan's body goes to the middle of the moving one's.
    - ``affine``: `SAMAffine` by the embeddings of both; where too little matches, ``center`` stands in, with a warning.

    `prepare` finds the maps of pairs that it has not seen, shared out between processes, and keeps them in
    ``cache_dir``, one small file each, found by what the scans, their reading, these settings and the embedder are.

    Args:
        mode: ``none``, ``center`` or ``affine``.
        network: the embedder's, for ``affine``.
        embedder: embeds a volume with it.
        affine: fits the map.
        body_threshold: intensities above it are body; None: all is.
        cache_dir: folder of the maps; None keeps them in memory.

    Raises:
        InputError: an unknown mode.
        ValueError: ``affine`` without ``network``, ``embedder`` and ``affine``; by the call, for a pair that was not
            prepared.

    Example:
        >>> scan, moved = (MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4)) for _ in range(2))
        >>> moved.affine[0, 3] = 5
        >>> pair = PairSource("a_to_b", "b", "a", lambda: scan, lambda: moved)
        >>> aligner = Prealigner("center")
        >>> aligner.prepare([pair])
        >>> aligner(pair)[0].tolist()
        [1.0, 0.0, 0.0, 5.0]
    """

    def __init__(
        self,
        mode: str = "affine",
        network: nn.Module | None = None,
        embedder: VolumeEmbedder | None = None,
        affine: SAMAffine | None = None,
        body_threshold: float | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"prealign must be one of {', '.join(MODES)}, got {mode!r}.")
        if mode == "affine" and None in (network, embedder, affine):
            raise ValueError("mode affine needs network, embedder and affine.")
        self.mode = mode
        self.network = network
        self.embedder = embedder
        self.affine = affine
        self.body_threshold = body_threshold
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser().absolute()
        self._found: dict[str, list[list[float]]] = {}
        self._settings: Any = None
        self._embedded: OrderedDict[str, VolumeEmbedding] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker process needs: the maps, and no network."""
        return {**self.__dict__, "network": None, "embedder": None, "_embedded": OrderedDict()}

    def prepare(self, pairs: Sequence[PairSource]) -> None:
        """Find the maps of all pairs; every process has to call it, with the same pairs.

        Raises:
            InputError: a scan cannot be read, or has no body.
        """
        if self.mode == "none":
            return
        self._settings = self._describe()  # the weights may be others than last time
        missing = {self._key(pair): pair for pair in pairs if not self._known(self._key(pair))}
        all_have_looked()
        found = share_out(sorted(missing.items(), key=lambda entry: str(entry[1].fixed_identity)), self._find_all)
        self._embedded.clear()
        self._found.update(entry for entry in found if self.cache_dir is None)

    def __call__(self, pair: PairSource) -> Tensor:
        """Return the map (4, 4) of a pair, from the fixed to the moving scan's RAS mm, float64."""
        if self.mode == "none":
            return torch.eye(4, dtype=torch.float64)
        key = self._key(pair)
        if not self._known(key):
            raise ValueError(f"{pair.name}: was not prepared; call set_epoch of the data set first.")
        if key not in self._found:
            self._found[key] = json.loads(self._file(key).read_text(encoding="utf-8"))["matrix"]
        return torch.tensor(self._found[key], dtype=torch.float64)

    def _describe(self) -> Any:
        weights = hash_encoder(self.network) if self.mode == "affine" and self.network is not None else None
        parts = (self.mode, self.body_threshold, weights, describe(self.affine), monai_ext.__version__)
        embedder = self.embedder
        return (*parts, None if embedder is None else (embedder.spacing, embedder.amp, embedder.precision))

    def _key(self, pair: PairSource) -> str:
        return digest(self._settings, pair.fixed_identity, pair.moving_identity)

    def _known(self, key: str) -> bool:
        return key in self._found or (self.cache_dir is not None and self._file(key).is_file())

    def _file(self, key: str) -> Path:
        return (self.cache_dir or Path()) / f"{key}.prealign.json"

    def _find_all(self, entries: Sequence[tuple[str, PairSource]]) -> list[tuple[str, list[list[float]]]]:
        hidden = not is_main() or len(entries) < 2 or not sys.stderr.isatty()
        found = []
        for key, pair in tqdm(entries, desc="aligning pairs", unit="pair", disable=hidden):
            content = self._find(pair)
            if self.cache_dir is not None:
                write_json(self._file(key), content)
            found.append((key, content["matrix"]))
        return found

    def _find(self, pair: PairSource) -> dict[str, Any]:
        fixed, moving = pair.fixed(), pair.moving()
        bodies = [body_mask(scan, Path(pair.name), self.body_threshold) for scan in (fixed, moving)]
        middles = [_middle(body, scan) for body, scan in zip(bodies, (fixed, moving), strict=True)]
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, 3] = middles[1] - middles[0]
        told: dict[str, Any] = {"pair": pair.name, "mode": "center"}
        if self.mode == "affine" and self.affine is not None:
            embedded = (self._embed(fixed, pair, "fixed"), self._embed(moving, pair, "moving"))
            try:
                result = self.affine(*embedded, *bodies)
                matrix, told = result.matrix, {"pair": pair.name, "mode": "affine", **result.summary()}
            except InputError as error:
                logger.warning("%s: no affine map (%s); the middles of both are aligned instead.", pair.name, error)
                told["reason"] = str(error)
        return {**told, "matrix": matrix.tolist()}

    def _embed(self, scan: MetaTensor, pair: PairSource, side: str) -> VolumeEmbedding:
        if self.embedder is None or self.network is None:
            raise ValueError("mode affine needs network and embedder.")
        key = digest(pair.fixed_identity if side == "fixed" else pair.moving_identity)
        if key not in self._embedded:
            self._embedded[key] = self.embedder(scan, self.network, case=pair.name)
        self._embedded.move_to_end(key)
        while len(self._embedded) > KEPT:
            self._embedded.popitem(last=False)
        return self._embedded[key]


def _middle(body: Tensor, scan: MetaTensor) -> Tensor:
    """Return the mean place of the body in RAS mm."""
    voxels = body.nonzero().double().mean(dim=0)
    affine = scan.affine.detach().cpu().double()
    return affine[:3, :3] @ voxels + affine[:3, 3]
