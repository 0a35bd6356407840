# SPDX-License-Identifier: Apache-2.0
"""The learned step of a registration, with what a bundle's ``inference.json`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.bundle import ConfigParser
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.files import sha256_of
from monai_ext.networks.checkpoints import import_anatomical_embedding, read_state
from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid, resample
from monai_ext.shipping.bundle_matching import DEVICE
from monai_ext.shipping.bundle_network import build, load_network, read_inference

EMBEDDER = "embedder."  # its weights inside of all weights


class BundleDeformation:
    """A bundle's network that displaces one scan towards another after they were brought close.

    Weights tell the arguments of the network that follow from its embedder. A file without an embedder is loaded on top
    of the one that is given, and refused if it was trained on another.

    Args:
        bundle: its folder. Its ``inference.json`` names ``network_def`` (two scans' channels, the moving one's first ->
            displacement in voxels, as MONAI's ``Warp`` takes it) and ``preprocessing`` of an item with ``image``.
        weights: file of the network's weights. Default: the config's ``ckpt_path``.
        knobs: top-level entries to change.
        shared: knobs of another bundle; those that this one has too are changed alike, unless ``knobs`` has them.
        embedder: weights of the embedder, for a file that has none inside.
        untrained: draw the weights, from the config's seed or 0, for a try.

    Raises:
        InputError: there are no weights, they do not fit, or there is no such knob.

    Example:
        >>> deform = BundleDeformation(Path("bundles/anatomical_registration"))  # doctest: +SKIP
        >>> deform(Path("a.nii.gz"), Path("b.nii.gz"), TransformChain([]))(points)  # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: Path,
        weights: Path | None = None,
        knobs: Mapping[str, object] | None = None,
        shared: Mapping[str, object] | None = None,
        embedder: Path | None = None,
        untrained: bool = False,
    ) -> None:
        self.bundle = bundle
        known = read_inference(bundle).get()
        offered = {"device": DEVICE, "embedder_path": embedder and str(embedder), "untrained_embedder": untrained}
        usual = {name: value for name, value in {**offered, **(shared or {})}.items() if name in known}
        knobs = {**usual, **(knobs or {})}
        plain = read_inference(bundle, None, knobs)
        self.weights = None if untrained else _found(weights or Path(str(build(plain, "ckpt_path"))), bundle)
        self._parser = read_inference(bundle, _told(plain, self.weights, embedder), knobs)
        self.device = build(self._parser, "device")
        self.network = _network(self._parser, self.weights).to(self.device)
        self.preprocessing = build(self._parser, "preprocessing")

    @property
    def provenance(self) -> dict[str, object]:
        """What a reader of a result wants to know of how it was made."""
        version = str(self._parser.get("_meta_", {}).get("version", "unknown"))
        return {
            "bundle": f"{self.bundle.name} {version}",
            "untrained": self.weights is None,
            "weights": None if self.weights is None else str(self.weights),
            "weights_sha256": None if self.weights is None else sha256_of(self.weights),
        }

    def __call__(self, fixed: Path, moving: Path, transform: TransformChain) -> WorldDisplacement:
        """Return what the network still has to displace, from the fixed scan to the moving one as it lies by then.

        Args:
            fixed: the scan that stays.
            moving: the scan to bring onto it.
            transform: from fixed to moving RAS mm, what is known already.

        Returns:
            A displacement on the fixed scan's grid as the network gets it; ``transform`` comes after it.

        Raises:
            InputError: a scan cannot be read, or does not fit the network.
        """
        here, there = (self.preprocessing({"image": str(path)})["image"] for path in (fixed, moving))
        grid = WorldGrid.of(here)
        brought = resample(there, WorldGrid.of(there), transform, grid, "linear", float(there.min()))
        pair = torch.cat([brought, here.as_subclass(Tensor).float()])
        with torch.no_grad():
            ddf = self.network(pair[None].to(self.device))[0].cpu()
        return WorldDisplacement.from_voxels(ddf, grid)


def _found(weights: Path, bundle: Path) -> Path:
    if weights.is_file():
        return weights
    raise InputError(
        f"{weights}: there are no weights of {bundle.name} for the step deform; train them on your own scans "
        "(train.json), or name a file with --deform_ckpt. For a try without any: --untrained True."
    )


def _told(parser: ConfigParser, weights: Path | None, embedder: Path | None) -> Mapping[str, Any]:
    """Return the network's arguments that the weights of its embedder tell, inside of all weights or beside them."""
    arguments = parser.get("network_def", {})
    if "embedder_path" not in arguments:
        return {}
    whole = {} if weights is None else read_state(weights)
    state = {name[len(EMBEDDER) :]: value for name, value in whole.items() if name.startswith(EMBEDDER)}
    source = weights if state else embedder
    if source is None:
        return {}
    told = import_anatomical_embedding(state or read_state(source), str(source)).knobs
    return {name: value for name, value in told.items() if name in arguments}


def _network(parser: ConfigParser, weights: Path | None) -> nn.Module:
    """Build the network; one that has an embedder inside knows itself how to load it and what was learned on it."""
    if weights is not None and "embedder_path" not in parser.get("network_def", {}):
        return load_network(parser, weights)
    torch.manual_seed(int(parser.get("seed", 0) or 0))
    network = build(parser, "network_def")
    if weights is not None:
        network.load_pretrained(weights)
    return network.eval()
