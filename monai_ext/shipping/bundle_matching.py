# SPDX-License-Identifier: Apache-2.0
"""Matching points between scans with what a bundle's ``inference.json`` describes, outside of a MONAI workflow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_ext import __version__
from monai_ext.data.fingerprint import describe
from monai_ext.errors import InputError
from monai_ext.files import sha256_of
from monai_ext.matching import MatchedPoints, VolumeEmbedding
from monai_ext.networks.checkpoints import IMPORTERS, read_state
from monai_ext.scan_files import stem_of
from monai_ext.shipping.bundle_network import build, load_network, package_of, read_inference

UNTRAINED = "the network is not trained"
DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
# where things lie and how fast they go: no result depends on these
_APART = ("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "ckpt_path", "embedding_dir", "size_budget", "device")


class BundleMatching:
    """Network, preprocessing, embedder and matcher of a bundle, and the scans embedded last.

    Weights tell the arguments of the network that follow from them, as in `python -m monai_ext export`; all must fit.

    Args:
        bundle: its folder. Its ``inference.json`` names ``network_def``, ``preprocessing`` of an item with ``image``,
            ``embedder`` (`monai_ext.inferers.VolumeEmbedder`) and ``matcher`` (`monai_ext.matching.PointMatcher`).
        weights: file of the network's weights. Default: the config's ``ckpt_path``.
        knobs: top-level entries to change.
        untrained: draw the weights, from the config's seed or 0, for a try.
        keep_mb: MB (10^6 bytes) of embeddings to keep in memory. The last one is kept whatever its size.

    Raises:
        InputError: there are no weights, they do not fit, or there is no such knob.

    Example:
        >>> matching = BundleMatching(Path("bundles/anatomical_embedding"))  # doctest: +SKIP
        >>> matching.match(Path("a.nii.gz"), Path("b.nii.gz"), points).score  # doctest: +SKIP
        tensor([0.9312])
    """

    def __init__(
        self,
        bundle: Path,
        weights: Path | None = None,
        knobs: Mapping[str, object] | None = None,
        untrained: bool = False,
        keep_mb: float = 2000.0,
    ) -> None:
        knobs = {"device": DEVICE, **(knobs or {})}
        self.bundle = bundle
        self.weights = None if untrained else _found(weights or _default_weights(bundle, knobs), bundle)
        self._parser = read_inference(bundle, _told(bundle, self.weights), knobs)
        device = build(self._parser, "device")
        if self.weights is None:
            torch.manual_seed(int(self._parser.get("seed", 0) or 0))
            network = build(self._parser, "network_def").eval()
        else:
            network = load_network(self._parser, self.weights)
        self.network = network.to(device)
        self.preprocessing = _with_knobs(self._parser, "preprocessing")
        self.embedder = _with_knobs(self._parser, "embedder")
        self.matcher = _with_knobs(self._parser, "matcher")
        self.keep_mb = keep_mb
        self.embedded = 0
        self._kept: OrderedDict[Path, VolumeEmbedding] = OrderedDict()

    @property
    def note(self) -> str:
        """What every result must say of its network; empty where it is trained."""
        return UNTRAINED if self.weights is None else ""

    @property
    def settings(self) -> dict[str, object]:
        """All that results depend on besides the scans and points, in a form that can be compared."""
        config = {name: value for name, value in self._parser.get().items() if name not in _APART}
        weights = None if self.weights is None else sha256_of(self.weights)
        return {"monai_ext": __version__, "weights": weights, "config": describe(config)}

    @property
    def provenance(self) -> dict[str, str]:
        """What a reader of a result wants to know of how it was made."""
        weights = f"none, {UNTRAINED}"
        if self.weights is not None:
            weights = f"{self.weights} (sha256 {sha256_of(self.weights)})"
        version = str(self._parser.get("_meta_", {}).get("version", "unknown"))
        return {
            "bundle": f"{self.bundle.name} {version}",
            "weights": weights,
            "mode": str(self.matcher.mode),
            "monai_ext": __version__,
        }

    def match(self, fixed: Path, moving: Path, points: Tensor) -> MatchedPoints:
        """Find in the scan ``moving`` what points (N, 3) of the scan ``fixed`` show, RAS mm in and out.

        Raises:
            InputError: a scan cannot be read or embedded.
        """
        return self.matcher(self.embed(fixed), self.embed(moving), points)

    def embed(self, scan: Path) -> VolumeEmbedding:
        """Return the embedding of a scan, which is kept for the next time.

        Raises:
            InputError: it cannot be read or embedded.
        """
        key = scan.resolve()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        image = self.preprocessing({"image": str(scan)})["image"]
        self._kept[key] = found = self.embedder(image, self.network, case=stem_of(scan))
        self.embedded += 1
        while len(self._kept) > 1 and sum(map(_bytes_of, self._kept.values())) > 1e6 * self.keep_mb:
            self._kept.popitem(last=False)
        return found


def _default_weights(bundle: Path, knobs: Mapping[str, object]) -> Path:
    parser = read_inference(bundle, None, knobs)
    return Path(str(build(parser, "ckpt_path")))


def _found(weights: Path, bundle: Path) -> Path:
    if weights.is_file():
        return weights
    raise InputError(
        f"{weights}: there are no weights of {bundle.name}; train them on your own scans (train.json), bring "
        f"published ones there (python -m monai_ext convert {bundle.name} --source FILE --output {weights}), or name a "
        "file with --ckpt_path. For a try without any: --untrained True."
    )


def _told(bundle: Path, weights: Path | None) -> Mapping[str, Any]:
    """Return the network's arguments that the weights tell."""
    importer = IMPORTERS.get(package_of(read_inference(bundle)))
    if weights is None or importer is None:
        return {}
    return importer(read_state(weights), str(weights)).knobs


def _with_knobs(parser: ConfigParser, name: str) -> Any:
    """Build a part; what it says against a knob is the user's to mend."""
    try:
        return build(parser, name)
    except RuntimeError as error:
        if isinstance(error.__cause__, ValueError):
            raise InputError(f"{name}: {error.__cause__}") from error
        raise


def _bytes_of(volume: VolumeEmbedding) -> int:
    maps = [*volume.fine, volume.coarse]
    kept = vars(volume).get("inverse_lengths")  # made by the first search
    return sum(x.nbytes for x in (*maps, *([] if kept is None else [kept])))
