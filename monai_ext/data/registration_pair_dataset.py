# SPDX-License-Identifier: Apache-2.0
"""Pairs of scans on one grid: listed, drawn at random, or simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from monai_ext.data._pair_scans import PairScans
from monai_ext.data._partners import Partners
from monai_ext.data._true_displacement import true_displacement
from monai_ext.data.pair_source import PairSource
from monai_ext.data.scan_pair_dataset import ScanPairDataset
from monai_ext.errors import InputError, find_input_error

SUBJECTS = ("different", "same", "any")
TOLD = ("case", "subject", "site")
POINTS = ("points", "truth", "point_names")
LABELS = {"moving_label": "image_label", "fixed_label": "reference_label"}
TRUTH = ("true_displacement", "truth_mask")
PATHS = {"moving_path": "image", "fixed_path": "reference", "moving_label_path": "image_label"}
Item = dict[str, Any]


class AlignsPairs(Protocol):
    """What finds a first affine map between two scans, such as `monai_ext.inferers.Prealigner`."""

    def prepare(self, pairs: Sequence[PairSource]) -> object:
        """Find the maps of pairs, in the main process."""

    def __call__(self, pair: PairSource) -> Tensor:
        """Return the map (4, 4) of a prepared pair, fixed to moving RAS mm."""


class SimulatesPairs(Protocol):
    """What makes a pair of a scan, such as `monai_ext.transforms.RandSmoothWarpd`."""

    def set_random_state(self, seed: int | None = None) -> object:
        """Begin to draw anew."""

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Add ``reference``, ``mapping``, ``points`` and ``truth`` to an item with ``image``."""


class Drawn(NamedTuple):
    """Which items of the data make the pair of an index: a listed pair and itself, two scans, or one alone."""

    moving: int
    fixed: int | None
    seed: int


class RegistrationPairDataset(Dataset):
    """One item per pair: both scans on one grid, the moving one brought there by a first affine map.

    Of single scans, each index is a pair drawn from seed, epoch and index alone, so that neither the number of workers
    nor a restart changes a run: two scans of ``subjects``, or with ``simulate_prob``, and wherever a scan has no
    partner, a simulated pair. Simulated pairs are taken as they are; the affine map is that of real ones.

    An item has ``image`` (2 C, *spatial), the moving scan's channels and then the fixed one's, a `MetaTensor` with the
    grid's affine; ``moving_mask`` (1, *spatial), where the moving scan has voxels; ``matrix`` (4, 4), from the fixed to
    the moving scan's RAS mm; maybe ``moving_label`` and ``fixed_label`` (1, *spatial), ``points`` (N, 3) and ``truth``
    (N, 3), RAS mm in the fixed and in the moving scan, with ``point_names``; ``moving_path``, ``fixed_path`` and maybe
    ``moving_label_path``; ``case``, ``subject``, ``site``. Using ``with_truth``, also ``true_displacement``
    (3, *spatial), in voxels from the fixed into the moving scan, and ``truth_mask`` (1, *spatial), 1 where it is known
    and something is to be seen: of simulated pairs in the body; all 0 of others.

    Args:
        data: items as `load_registration_pairs` gives them.
        reading: from ``{"image": files}`` to the oriented, resampled and scaled scan, without anything random.
        grid: brings a pair to one grid, see `monai_ext.transforms.PairOnOneGridd`.
        label_reading: from ``{"label": file}`` to labels on voxels of the same size; None leaves labels out.
        prealign: finds the first affine map; None: the worlds are one.
        simulate: makes a pair of one scan.
        simulate_prob: share of pairs that are simulated, of single scans.
        subjects: of two scans that are drawn, ``different``, the ``same``, or ``any``.
        pairs_per_epoch: how many; None: one for each item, in their order.
        require_labels: refuse data without labels.
        keys: entries that items have, as plain tensors, so that they can be stacked; None: all.
        seed: of all that is drawn.
        same_each_epoch: draw the same pairs in each epoch, as for validation.
        cache_dir: folder for scans and labels as they were read; None reads them anew each time.
        space: ``RAS`` or ``LPS``, of files of points that do not state it.
        with_truth: give the true displacement of simulated pairs.
        body_threshold: for ``truth_mask``, the body is where the fixed scan is above this; None: everywhere.

    Raises:
        InputError: no item to draw from (of listed pairs none may be left); an argument out of its range; scans that
            have no partner and are not to be simulated; labels that are missing. By an item: files that are broken or
            do not fit together.

    Example:
        >>> class Twice:
        ...     def set_random_state(self, seed=None): pass
        ...     def __call__(self, item): return {**item, "reference": item["image"]}
        >>> scan = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
        >>> mask = {"moving_mask": torch.ones(1, 4, 4, 4)}
        >>> one = {"image": "a", "case": "a", "subject": "a"}
        >>> grid = lambda item: {**item, **mask}
        >>> RegistrationPairDataset([one], lambda item: {"image": scan}, grid, simulate=Twice())[0]["image"].shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(
        self,
        data: Sequence[Item],
        reading: Callable | Sequence[Callable],
        grid: Callable,
        label_reading: Callable | Sequence[Callable] | None = None,
        prealign: AlignsPairs | None = None,
        simulate: SimulatesPairs | None = None,
        simulate_prob: float = 0.0,
        subjects: str = "different",
        pairs_per_epoch: int | None = None,
        require_labels: bool = False,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        same_each_epoch: bool = False,
        cache_dir: str | Path | None = None,
        space: str | None = None,
        with_truth: bool = False,
        body_threshold: float | None = None,
    ) -> None:
        drawn = simulate is not None or pairs_per_epoch is not None
        _check(data, drawn, simulate_prob, subjects, pairs_per_epoch)
        if simulate_prob > 0 and simulate is None:
            raise ValueError("simulate_prob above 0 needs simulate.")
        self.data = list(data)
        self.grid = grid
        self.prealign = prealign
        self.simulate = simulate
        self.simulate_prob = simulate_prob
        self.subjects = subjects
        self.pairs_per_epoch = pairs_per_epoch
        self.keys = None if keys is None else tuple(keys)
        self.seed = seed
        self.same_each_epoch = same_each_epoch
        self.with_truth = with_truth
        self.body_threshold = body_threshold
        self._partners = Partners(self.data, subjects)
        lonely = [item["case"] for index, item in enumerate(self.data) if not self._partners.of(index)]
        if lonely and simulate is None:
            raise InputError(f"{lonely[0]}: there is no scan of a {subjects} subject to register it with; add scans.")
        if require_labels:
            _require_labels(self.data)
        if with_truth and simulate_prob == 0 and not lonely:
            raise InputError(
                "lambda_truth above 0 and readout_sigma learn from simulated pairs; set simulate_prob above 0, too."
            )
        # shared memory: workers that live on from epoch to epoch see the change
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._with_points = ScanPairDataset(self.data, space=space)
        composed = [Compose(part) if isinstance(part, Sequence) else part for part in (reading, label_reading)]
        self._scans = PairScans(composed[0], composed[1], cache_dir).prepare(self.data)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.data) if self.pairs_per_epoch is None else self.pairs_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of which all draws are a function, and align its pairs; every process has to call it."""
        self._epoch[0] = epoch
        if self.prealign is not None:
            pairs = [self._files(self._draw(index)) for index in range(len(self))]
            self.prealign.prepare([self._source(pair) for pair in pairs if "reference" in pair])

    def __getitem__(self, index: int) -> Item:
        pair = self._draw(range(len(self))[index])  # a negative index is the same pair, hence the same draw
        try:
            return self._item(pair)
        except Exception as error:
            raise find_input_error(error) or error from None

    def _draw(self, index: int) -> Drawn:
        epoch = 0 if self.same_each_epoch else int(self._epoch)
        draw = np.random.default_rng([self.seed, epoch, index])
        moving = index if self.pairs_per_epoch is None else int(draw.integers(len(self.data)))
        partners, seed = self._partners.of(moving), int(draw.integers(2**31))
        simulated = not partners or (draw.random() < self.simulate_prob and "reference" not in self.data[moving])
        return Drawn(moving, None if simulated else partners[int(draw.integers(len(partners)))], seed)

    def _files(self, pair: Drawn) -> Item:
        """Return the pair as if it had been listed; of one that is to be simulated, the scan."""
        item = self.data[pair.moving]
        if pair.fixed is None or "reference" in item:
            return item
        fixed = self.data[pair.fixed]
        labels = {f"{key}_label": i["label"] for key, i in (("image", item), ("reference", fixed)) if "label" in i}
        rest = {key: value for key, value in item.items() if key != "label"}
        return {**rest, **labels, "reference": fixed["image"], "case": f"{item['case']}_to_{fixed['case']}"}

    def _source(self, files: Item) -> PairSource:
        return self._scans.source(files["case"], files["reference"], files["image"])

    def _item(self, pair: Drawn) -> Item:
        files = self._files(pair)
        told = {key: files[key] for key in TOLD if key in files}
        item = {**told, **self._scans.open_all(files), "matrix": torch.eye(4).double()}
        if pair.fixed is None and self.simulate is not None:
            self.simulate.set_random_state(seed=pair.seed)
            item = self.simulate(item)
        elif self.prealign is not None:
            item["matrix"] = self.prealign(self._source(files))
        if isinstance(files.get("points"), str) and (self.keys is None or "points" in self.keys):
            item |= {key: value for key, value in self._with_points[pair.moving].items() if key in POINTS}
        if isinstance(self.grid, Randomizable):
            self.grid.set_random_state(seed=pair.seed)
        item = self.grid(item)
        if self.with_truth:
            item |= self._truth(item)
        return self._packed(item, files)

    def _truth(self, item: Item) -> Item:
        fixed = item["reference"]
        if "mapping" not in item:
            empty = torch.zeros(1, *fixed.shape[1:])
            return {TRUTH[0]: empty.repeat(fixed.ndim - 1, *[1] * (fixed.ndim - 1)), TRUTH[1]: empty}
        body = torch.ones(1, *fixed.shape[1:])
        if self.body_threshold is not None:
            body = (_plain(fixed).amax(dim=0, keepdim=True) > self.body_threshold).float()
        return {TRUTH[0]: true_displacement(item["mapping"], fixed.affine, tuple(fixed.shape[1:])), TRUTH[1]: body}

    def _packed(self, item: Item, files: Item) -> Item:
        moving, fixed = item["image"], item["reference"]
        name = {key: moving.meta[key] for key in ("filename_or_obj",) if key in moving.meta}
        scans = MetaTensor(torch.cat([_plain(moving), _plain(fixed)]), affine=moving.affine, meta=name)
        packed = {key: item[key] for key in (*TOLD, "matrix", "moving_mask", *TRUTH) if key in item}
        packed |= {key: item[key] for key in POINTS if key in item}
        packed |= {name: _plain(item[key]) for name, key in LABELS.items() if key in item}
        packed |= {name: _first(files[key]) for name, key in PATHS.items() if key in files}
        packed["image"] = scans
        if self.keys is None:
            return packed
        return {key: _plain(packed[key]) for key in self.keys if key in packed}


def _check(data: Sequence[Item], drawn: bool, simulate_prob: float, subjects: str, pairs_per_epoch: int | None) -> None:
    if drawn and not data:
        raise InputError("no scan to register; dataset_dir leads to an empty list.")
    if not 0 <= simulate_prob <= 1:
        raise InputError(f"simulate_prob must be in [0, 1], got {simulate_prob}.")
    if subjects not in SUBJECTS:
        raise InputError(f"subjects must be one of {', '.join(SUBJECTS)}, got {subjects!r}.")
    if pairs_per_epoch is not None and pairs_per_epoch < 1:
        raise InputError(f"pairs_per_epoch must be at least 1 or null, got {pairs_per_epoch}.")


def _require_labels(data: Sequence[Item]) -> None:
    for item in data:
        wanted = ("image_label", "reference_label") if "reference" in item else ("label",)
        if any(key not in item for key in wanted):
            raise InputError(
                f"{item['case']}: has no labels, which lambda_dice above 0 needs of all training data; list them, or "
                "set lambda_dice to 0."
            )


def _first(files: str | list[str]) -> str:
    return files if isinstance(files, str) else files[0]


def _plain(value: Any) -> Any:
    return value.as_tensor().contiguous() if isinstance(value, MetaTensor) else value
