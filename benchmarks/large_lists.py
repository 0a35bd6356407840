# SPDX-License-Identifier: Apache-2.0
"""Processor time and memory of a list of very many scans: reading, looking what is done, sharing out, a summary."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, main


def measure(rounds: int, quick: bool) -> list[Row]:
    """Measure two numbers of scans: what grows faster than the number shows."""
    counts = (500, 1000) if quick else (5_000, 20_000)
    return [row for count in counts for row in _of(count)]


def _of(count: int) -> list[Row]:
    from monai_ext.data import EpochSampler, ScanDataset, load_datalist, undone
    from monai_ext.data._partners import Partners
    from monai_ext.metrics import SCORES, summarize_cases

    with tempfile.TemporaryDirectory() as folder:
        root = _collection(Path(folder), count)
        results = root / "results"
        items, reading = _measured("read the data list, look for its files", lambda: load_datalist(root, "inference"))
        left, looking = _measured("look what is done", lambda: undone(items, results, ["{case}{ending}"]))
        assert left == []
        _, sharing = _measured(
            "share out between 8 processes",
            lambda: list(EpochSampler(ScanDataset(items), shuffle=False, num_replicas=8, rank=0, even_divisible=False)),
        )
        _, pairing = _measured("find partners to register", lambda: len(Partners(items, "different").of(0)))
    rows = [
        {"case": item["case"], "class": 1, "class_name": "1", "truth_voxels": 9, **dict.fromkeys(SCORES, 0.5)}
        for item in items
    ]
    _, summing = _measured("summary of all scores", lambda: summarize_cases(rows, 1000, 0))
    return [{"scans": f"{count:,}", **row} for row in (reading, looking, sharing, pairing, summing)]


def _collection(root: Path, count: int) -> Path:
    """Write a data list, empty files for its scans, and a result for each."""
    names = [f"patient_{number:08d}" for number in range(count)]
    for part in ("images", "results"):
        (root / part).mkdir()
        for name in names:
            (root / part / f"{name}.nii.gz").touch()
    listed = [{"image": f"images/{name}.nii.gz", "subject": name} for name in names]
    (root / "datalist.json").write_text(json.dumps({"test": listed}), encoding="utf-8")
    return root


def _measured(what: str, work: Callable[[], Any]) -> tuple[Any, Row]:
    """Take the time without the tracing of memory, which slows everything."""
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, {"what": what, "cpu_s": round(seconds, 2), "peak_mb": round(peak / 1e6, 1)}


if __name__ == "__main__":
    main("large_lists", __doc__, measure, rounds=1)
