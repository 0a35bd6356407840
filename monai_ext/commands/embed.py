# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext embed`: the frozen encoder's embeddings of a data set, computed once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.commands._bundle import find_bundle
from monai_ext.errors import InputError

if TYPE_CHECKING:
    import torch

    from monai_ext.data.embedding_plan import EmbeddingPlan
    from monai_ext.data.volume_embeddings import VolumeEmbeddings
    from monai_ext.shipping.bundle_training import BundleTraining

DAY = 24 * 60.0


def embed(
    name: str | None = None,
    bundle_root: str | None = None,
    dataset_dir: str | None = None,
    config: str | None = None,
    sections: str = "training,validation,test",
    embedding_dir: str | None = None,
    pretrained: str | None = None,
    ckpt_path: str | None = None,
    size_budget: int | None = None,
    check: bool = False,
    dry_run: bool = False,
    **knobs: object,
) -> None:
    """Compute what a bundle's frozen encoder makes of every slice, once; training and inference read it.

    Everything is as configs/train.json says: which scans, how they are read, which network. Embeddings are found by
    the scan's voxels, the encoder's weights and all settings: what is there already is not computed again, and what
    has changed is never used. The estimate of slices, size and time comes first.

    It may be killed at any time and started again; `torchrun --nproc_per_node=2 -m monai_ext embed ...`, or the
    same command started several times, shares out the scans.

    Args:
        name: bundle, by name or path.
        bundle_root: the same, as MONAI's commands call it.
        dataset_dir: the data set. Default: that of the config, as for the other paths.
        config: further config on top of train.json, such as a recipe; in the bundle's configs or by path.
        sections: of the data set, separated by commas; each scan is taken once.
        embedding_dir: folder of the embeddings.
        pretrained: weights of the foundation model, as for training.
        ckpt_path: weights of the whole network instead, as training writes them.
        size_budget: bytes that embedding_dir may take.
        check: compare embeddings that are there with their checksums first, and compute damaged ones anew.
        dry_run: stop after the estimate.
        knobs: top-level entries of train.json to change, as for `monai.bundle run`.

    Example:
        python -m monai_ext embed --bundle_root bundles/desam --dataset_dir demo_data --pretrained sam.pt
    """
    if not (name or bundle_root):
        raise InputError("embed: name the bundle, as in `python -m monai_ext embed desam`.")
    bundle = find_bundle(bundle_root or name or "")

    from monai_ext import distributed
    from monai_ext.shipping.bundle_training import BundleTraining

    given = {
        "dataset_dir": dataset_dir,
        "embedding_dir": embedding_dir,
        "pretrained": pretrained,
        "size_budget": size_budget,
    }
    training = BundleTraining(bundle, {**{n: v for n, v in given.items() if v is not None}, **knobs}, config)
    if "RANK" in os.environ:  # torchrun has started several processes
        distributed.start(timeout_minutes=DAY)
    try:
        _embed(training, sections, ckpt_path, check, dry_run)
    finally:
        distributed.stop()


def _embed(training: BundleTraining, sections: str, ckpt_path: str | None, check: bool, dry_run: bool) -> None:
    import time

    from monai_ext.data._sizes import size_text
    from monai_ext.distributed import barrier

    items = _items(training, sections)
    embeddings = _embeddings(training, ckpt_path)
    plan = _plan(training, embeddings, items)
    if check:
        for damage in plan.drop_damaged():
            _say(f"damaged: {damage}")
    total, missing = len(set(plan.keys)), len(plan.missing)
    _say_estimate(plan)
    plan.check_room()
    if dry_run:
        return
    barrier()  # the estimate of time was made alone
    start = time.perf_counter()
    computed = plan.carry_out()
    parts = [f"{total - missing} were there", f"{computed} computed in {_duration(time.perf_counter() - start)}"]
    if computed < missing:
        parts.append(f"{missing - computed} computed by another command")
    store = embeddings.store
    _say(f"{total} volumes, {plan.slices} slices: {', '.join(parts)}; {store.folder} holds {size_text(store.size())}")


def _items(training: BundleTraining, sections: str) -> list[dict[str, Any]]:
    """List the scans of all sections, each once, and say how many each has."""
    from monai_ext.data._sections import SECTIONS

    found: dict[str, dict[str, Any]] = {}
    counts = []
    for section in (part.strip() for part in sections.split(",")):
        if section not in SECTIONS:
            raise InputError(f"--sections {sections}: must be some of {','.join(SECTIONS)}, separated by commas.")
        items = training.items(section)
        found = {**{str(item["image"]): item for item in items}, **found}
        counts.append(f"{section} {len(items)}")
    _say(f"scans: {', '.join(counts)}; {len(found)} different ones")
    return list(found.values())


def _embeddings(training: BundleTraining, ckpt_path: str | None) -> VolumeEmbeddings:
    """Build the network as training does, and refuse one whose encoder is trained."""
    from monai.utils import set_determinism

    from monai_ext.data.volume_embeddings import VolumeEmbeddings

    folder = training.build("embedding_dir")
    set_determinism(seed=training.value("seed", 0))  # first, as in training: what no file gives is drawn
    network = training.build("network_def")
    pretrained = training.value("pretrained")
    if ckpt_path is not None:
        _load(network, Path(ckpt_path))
    elif pretrained is not None:
        network.load_pretrained(pretrained)
    else:
        _say(f"no weights given (--pretrained): those of {type(network).__name__} are drawn, as in training without")
    device = _device(training)
    embeddings = VolumeEmbeddings(
        network.to(device),
        folder,
        training.value("plane", "axial"),
        training.value("slice_context", 0),
        batch_size=training.value("inference_batch_size", 4),
        precision=training.value("embedding_precision", "float16"),
        size_budget=training.value("size_budget"),
        amp=training.value("amp", False),
    )
    embeddings.encoder.require_frozen()
    weights = ckpt_path or pretrained
    _say(f"encoder: {type(network).__name__} on {device}{f', {weights}' if weights else ''}")
    return embeddings


def _load(network: torch.nn.Module, path: Path) -> None:
    from monai_ext.networks.checkpoints import check, read_state

    if not path.is_file():
        raise InputError(f"{path}: there are no weights; name a file with --ckpt_path, or leave it out.")
    state = read_state(path)
    check(state, network.state_dict(), str(path))
    network.load_state_dict(state)


def _device(training: BundleTraining) -> torch.device:
    import torch

    from monai_ext.distributed import local_device, world_size

    return local_device() if world_size() > 1 else torch.device(training.value("device", "cpu"))


def _plan(training: BundleTraining, embeddings: VolumeEmbeddings, items: list[dict[str, Any]]) -> EmbeddingPlan:
    """Read the scans, or find them where training keeps them, and look which embeddings are there."""
    from monai_ext.data.embedding_plan import EmbeddingPlan
    from monai_ext.data.slice_store import SliceStore

    store = SliceStore(
        training.build("train#reading"), embeddings.plane, training.value("cache_dir"), need_labels=False
    )
    return EmbeddingPlan(embeddings, store.prepare(items), [item["case"] for item in items])


def _say_estimate(plan: EmbeddingPlan) -> None:
    from monai_ext.data._sizes import free_bytes, size_text
    from monai_ext.distributed import is_main, world_size

    if not is_main():
        return
    store, missing = plan.embeddings.store, len(plan.missing)
    _say(f"{store.folder}: {len(set(plan.keys)) - missing} volumes are there, {missing} to compute")
    for change in plan.changes():
        _say(f"note: {change}")
    if not missing:
        return
    budget = "" if store.size_budget is None else f", size_budget {size_text(store.size_budget)}"
    size = f"{size_text(plan.missing_bytes)} ({size_text(free_bytes(store.folder))} free{budget})"
    processes = f" with {world_size()} processes" if world_size() > 1 else ""
    # told before a batch is timed, which may itself take a while on a slow machine
    _say(f"estimate: {plan.missing_slices} slices, {size} in {str(store.dtype).removeprefix('torch.')}")
    _say(f"estimate: {_duration(plan.seconds())}{processes}")


def _duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> _duration(7.2), _duration(700), _duration(12000)
        ('7.2 s', '12 min', '3 h 20 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _say(text: str) -> None:
    """Print a line at once, in one process of the group."""
    from monai_ext.distributed import is_main

    if is_main():
        print(text, flush=True)
