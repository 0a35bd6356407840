# SPDX-License-Identifier: Apache-2.0
"""One slice's features on disk: compressed float32 objects as published against the store's float16."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.harness import Row, alternate, check_equal, main, under_allocators

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = {"mb": 21, "write": 50, "read": 40}  # at most; at least, without a wait for the disk; warm cache
HALF = 2.0**-11  # relative rounding error of float16


def measure(rounds: int, quick: bool) -> list[Row]:
    """Normal random numbers, and what an encoder of random weights makes of a smooth picture."""
    sizes: Row = {"sam_type": "vit_tiny", "image_size": 64} if quick else {"sam_type": "vit_b", "image_size": 1024}
    rows = []
    for source in ("normal", "encoder"):
        arguments = {**sizes, "source": source, "rounds": rounds}
        rows += under_allocators("benchmarks.embedding_store:compare", arguments, quick)
    for source in ("normal", "encoder"):
        rows += precisions(**sizes, source=source)
    return rows


def compare(sam_type: str, image_size: int, source: str, rounds: int) -> list[Row]:
    """Size, writing and reading of one slice, both in the same folder."""
    maps = build_maps(sam_type, image_size, source)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [_writing(maps, folder, sync, rounds) for sync in (False, True)]
        archive, stored = folder / "slice.npz", _store(maps, folder)
        _save_published(maps, archive)
        check_equal(list(maps.values()), _load_published(archive), 0)
        equality = _check_half(maps, stored)
        rows += [_reading(archive, stored, way, rounds) for way in ("reader kept", "reader opened anew", "checked")]
        rows.append(_cold_reading(archive, stored, rounds))
        sizes = {"published_mb": _mb(archive), "ours_mb": _mb(stored), "target_mb": TARGETS["mb"]}
    case = f"{sam_type} {image_size}, {source}"
    return [{"what": "size on disk", "case": case, **sizes, **equality}, *({**row, "case": case} for row in rows)]


def precisions(sam_type: str, image_size: int, source: str) -> list[Row]:
    """What types of lower precision would save and lose, computed here and not stored by anything."""
    import torch

    maps = build_maps(sam_type, image_size, source)
    whole = torch.cat([value.flatten() for value in maps.values()])
    rows = []
    for name, coded in _codings(maps).items():
        difference = torch.cat([value.flatten() for value in coded[0]]) - whole
        rows.append(
            {
                "precision": name,
                "case": f"{sam_type} {image_size}, {source}",
                "mb": round(coded[1] / 1e6, 2),
                "relative_error": float(f"{(difference.norm() / whole.norm()).item():.3g}"),
                "largest_error": float(f"{(difference.abs().max() / whole.abs().max()).item():.3g}"),
            }
        )
    return rows


def build_maps(sam_type: str, image_size: int, source: str) -> dict[str, Tensor]:
    """Make the maps of one slice, by name."""
    import torch
    import torch.nn.functional as F
    from desam.network import DeSAM

    torch.manual_seed(0)
    if source == "normal":
        with torch.device("meta"):
            shapes = DeSAM(sam_type=sam_type, image_size=image_size).embedding_shapes
        return {name: torch.randn(shape) for name, shape in shapes.items()}
    network = DeSAM(in_channels=1, sam_type=sam_type, image_size=image_size).eval()
    picture = F.interpolate(torch.rand(1, 1, 24, 24), size=(image_size, image_size), mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        features = network.embed(picture).features[0]
    shapes = network.embedding_shapes
    return dict(zip(shapes, features.split([shape[0] for shape in shapes.values()]), strict=True))


def _writing(maps: dict[str, Tensor], folder: Path, sync: bool, rounds: int) -> Row:
    """Time writing a slice; with ``sync`` until the disk has it, without as far as the kernel's cache.

    Without, ours is the writing of one slice into the file of a volume, which is brought to the disk as a whole later.
    """
    from monai_ext.data.embedding_key import EmbeddingKey
    from monai_ext.data.embedding_store import EmbeddingStore

    shapes = {name: tuple(value.shape) for name, value in maps.items()}
    numbers = iter(range(10**6))
    store = EmbeddingStore(folder / f"store-{sync}")
    volume = store.begin(EmbeddingKey("volume", "", ""), shapes, slices=rounds + 1)
    assert volume is not None

    def published() -> None:
        path = folder / f"{next(numbers)}.npz"
        _save_published(maps, path)
        if sync:
            _sync(path)

    def put() -> None:
        volume.put(volume.missing[0], maps)

    def whole_file() -> None:
        writer = store.begin(EmbeddingKey(str(next(numbers)), "", ""), shapes, slices=1)
        assert writer is not None
        with writer:
            writer.put(0, maps)

    with volume:
        times = alternate(published, whole_file if sync else put, rounds)
        while volume.missing:
            put()
    what = "write, a file each, and wait for the disk" if sync else "write, no wait for the disk"
    return {"what": what, "case": "", **times, "target": None if sync else TARGETS["write"]}


def _reading(archive: Path, stored: Path, way: str, rounds: int) -> Row:
    """Time reading the slice, to float32 tensors, from a warm cache."""
    from monai_ext.data.embedding_reader import EmbeddingReader

    kept, checked = EmbeddingReader(stored), EmbeddingReader(stored, check=True)
    ours: dict[str, Callable[[], object]] = {
        "reader kept": lambda: kept.read(0),
        "reader opened anew": lambda: EmbeddingReader(stored).read(0),
        "checked": lambda: checked.read(0),
    }
    times = alternate(lambda: _load_published(archive), ours[way], 3 * rounds)
    target = TARGETS["read"] if way == "reader kept" else None
    return {"what": f"read, warm cache, {way}", "case": "", **times, "target": target}


def _cold_reading(archive: Path, stored: Path, rounds: int) -> Row:
    """Time reading files of which the kernel was told to forget all pages; the machine below may still know them.

    What a file system in memory holds cannot be forgotten; the bytes that came from a disk tell.
    """
    from monai_ext.data.embedding_reader import EmbeddingReader

    readings: dict[Path, Callable[[], object]] = {
        archive: lambda: _load_published(archive),
        stored: lambda: EmbeddingReader(stored).read(0),
    }
    seconds: dict[Path, list[float]] = {path: [] for path in readings}
    from_disk: dict[Path, float] = {}
    for _ in range(rounds):
        for path, read in readings.items():
            _forget(path)
            before, start = _read_bytes(), time.perf_counter()
            read()
            seconds[path].append(time.perf_counter() - start)
            from_disk[path] = (_read_bytes() - before) / 1e6
    return {
        "what": "read, cold cache (fsync, then posix_fadvise DONTNEED)",
        "case": "",
        "rounds": rounds,
        "published_ms": round(1000 * min(seconds[archive]), 2),
        "ours_ms": round(1000 * min(seconds[stored]), 2),
        "ratio_min": round(min(seconds[archive]) / min(seconds[stored]), 3),
        "ratio_median": round(median(a / b for a, b in zip(*seconds.values(), strict=True)), 3),
        "published_mb_from_disk": round(from_disk[archive], 2),
        "ours_mb_from_disk": round(from_disk[stored], 2),
    }


def _save_published(maps: dict[str, Tensor], path: Path) -> None:
    """Write a compressed archive of one array of objects, as published."""
    import numpy as np

    objects = np.empty(len(maps), dtype=object)
    for place, value in enumerate(maps.values()):
        objects[place] = value.numpy()
    np.savez_compressed(path, img_embeddings=objects)


def _load_published(path: Path) -> list[Tensor]:
    import numpy as np
    import torch

    with np.load(path, allow_pickle=True) as archive:
        return [torch.as_tensor(value) for value in archive["img_embeddings"]]


def _store(maps: dict[str, Tensor], folder: Path) -> Path:
    """Write the maps as a file of one slice."""
    from monai_ext.data.embedding_key import EmbeddingKey
    from monai_ext.data.embedding_store import EmbeddingStore

    store = EmbeddingStore(folder / "single")
    key = EmbeddingKey("image", "", "")
    writer = store.begin(key, {name: tuple(value.shape) for name, value in maps.items()}, slices=1)
    assert writer is not None
    with writer:
        writer.put(0, maps)
    return store.path(key)


def _check_half(maps: dict[str, Tensor], path: Path) -> Row:
    """Ours must be each value's nearest float16, to the bit, and so within float16 of the value."""
    import torch

    from monai_ext.data.embedding_reader import EmbeddingReader

    stored = EmbeddingReader(path).read(0)
    assert all(torch.equal(stored[name], value.half().float()) for name, value in maps.items())
    return check_equal(list(maps.values()), [stored[name] for name in maps], HALF)


def _codings(maps: dict[str, Tensor]) -> dict[str, tuple[list[Tensor], int]]:
    """Return what each precision makes of the maps, and its bytes."""
    import torch

    values, count = list(maps.values()), sum(value.numel() for value in maps.values())
    channels = sum(len(value) for value in values)
    return {
        "float32": (values, 4 * count),
        "float16 (stored)": ([value.half().float() for value in values], 2 * count),
        "bfloat16": ([value.to(torch.bfloat16).float() for value in values], 2 * count),
        "int8, a float32 scale per channel": ([_int8(value) for value in values], count + 4 * channels),
    }


def _int8(value: Tensor) -> Tensor:
    scale = value.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-12) / 127
    return (value / scale).round() * scale


def _forget(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _read_bytes() -> int:
    """Bytes that this process has had fetched from disks."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _mb(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


if __name__ == "__main__":
    main("embedding_store", __doc__, measure, rounds=5)
