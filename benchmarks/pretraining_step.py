# SPDX-License-Identifier: Apache-2.0
"""A step of SAMora's pre-training at each level: time and memory an image, with the teacher asked or remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    ROOT,
    Row,
    alternate,
    check_equal,
    fresh_process,
    main,
    memory_mb,
    reset_peak,
    under_allocators,
)

LEVELS = ("image", "patch", "pixel")
ASKED, REMEMBERED, ALONE = "teacher asked", "answer remembered", "no teacher"
WAYS = {"image": (ASKED, REMEMBERED), "patch": (ASKED, REMEMBERED), "pixel": (ALONE,)}
Step = Callable[[], float]


def measure(rounds: int, quick: bool) -> list[Row]:
    """Time in turns, memory in a process a way, with the networks and the optimiser of the bundle's own configs."""
    large: Row = {"sam_type": "vit_b", "image_size": 224}
    sizes: Row = {"sam_type": "vit_tiny", "image_size": 32, "teacher": "small"} if quick else large
    rows: list[Row] = []
    for level in LEVELS:
        arguments = {"level": level, "batch": 2 if quick else 4, "knobs": sizes}
        rows += under_allocators("benchmarks.pretraining_step:compare", {**arguments, "rounds": rounds}, quick)
    for level in LEVELS:
        for way in WAYS[level]:
            arguments = {"level": level, "batch": 2 if quick else 4, "knobs": sizes, "way": way}
            # not under the other allocator, which keeps what the teacher was asked with before the measurement
            rows += peak(**arguments) if quick else fresh_process("benchmarks.pretraining_step:peak", arguments)
    return rows


def compare(level: str, batch: int, knobs: Row, rounds: int) -> list[Row]:
    """Time forward, backward and the optimiser's step; both ways learn from the same answers."""
    import torch

    ways = WAYS[level]
    steps = [build_step(level, way, batch, knobs) for way in ways]
    row: Row = {"step": level, "case": f"{knobs['sam_type']} {knobs['image_size']}, {batch} images"}
    if len(ways) == 1:
        seconds, processor = _fastest(steps[0], rounds)
        return [{**row, "rounds": rounds, "ms": _each(seconds, batch), "cpu_ms": _each(processor, batch)}]
    first = [torch.tensor(step()) for step in steps]  # before any of them has learned
    equality = check_equal(first[:1], first[1:], 1e-5)
    times = alternate(steps[0], steps[1], rounds, warm_up=False)
    named = {"asked_ms": times.pop("published_ms") / batch, "ms": times.pop("ours_ms") / batch}
    return [{**row, **{name: round(value, 1) for name, value in named.items()}, **times, **equality}]


def peak(level: str, batch: int, knobs: Row, way: str) -> list[Row]:
    """Peak of resident memory during two steps, above that of the loaded networks."""
    step = build_step(level, way, batch, knobs)
    reset_peak()
    loaded = memory_mb("VmRSS")
    for _ in range(2):
        step()
    grown = memory_mb("VmHWM") - loaded
    case = f"{level}, {knobs['sam_type']} {knobs['image_size']}, {batch} images"
    return [
        {
            "memory": case,
            "way": way,
            "loaded_mb": round(loaded),
            "working_set_mb": round(grown),
            "mb_an_image": round(grown / batch, 1),
        }
    ]


def build_step(level: str, way: str, batch: int, knobs: Row) -> Step:
    """Build what the config trains, on one batch of random images; an answer to remember is asked for beforehand."""
    import torch

    torch.manual_seed(0)
    parser = _config(level, knobs)
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    network.train()
    image = torch.rand(batch, 1, knobs["image_size"], knobs["image_size"])
    given = (network.teach(image),) if way == REMEMBERED else ()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        outputs = network(image, *given)
        value = loss(outputs, image)
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def _config(level: str, knobs: Row) -> Any:
    """The bundle's config with a network of random weights on the CPU."""
    from monai.bundle import ConfigParser

    file: Path = ROOT / "bundles" / "samora" / "configs" / f"pretrain_{level}.json"
    parser = ConfigParser(ConfigParser.load_config_files([str(file)]))
    for name, value in {**knobs, "device": "cpu"}.items():
        if name in parser:
            parser[name] = value
    return parser


def _fastest(step: Step, rounds: int) -> tuple[float, float]:
    """Return the least seconds of a step, and the least of processor time."""
    step()
    wall, processor = [], []
    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    return min(wall), min(processor)


def _each(seconds: float, batch: int) -> float:
    return round(1000 * seconds / batch, 1)


if __name__ == "__main__":
    main("pretraining_step", __doc__, measure, rounds=3)
