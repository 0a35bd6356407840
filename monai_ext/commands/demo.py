# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext demo`: a bundle from data to report, on a real brain, on two cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.errors import InputError

# glibc gives large temporaries back to the kernel at every free and faults them in again at the next step; keeping
# them makes long CPU work markedly faster (benchmarks/README.md)
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
# threads that spin while they wait make a training step many times slower as soon as another program wants the cores
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class _Places:
    bundle: Path
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / self.bundle.name

    @property
    def models(self) -> Path:
        return self.run / "models"


def demo(name: str = "sam2_unet", output_dir: str = "demo", resolution: int = 1, **knobs: object) -> None:
    """Train, evaluate, export, infer and report a bundle on the MNI152 brain; nothing is downloaded.

    Run it again after an interruption and it goes on where it stopped.

    Args:
        name: bundle, by name or path.
        output_dir: folder for the data, the models, the predictions and the report.
        resolution: voxel size of the brain in mm: 1, 2 or 4.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 2.

    Example:
        python -m monai_ext demo --output_dir demo
    """
    places = _Places(find_bundle(name), Path(output_dir).absolute())
    settings = read_json(places.bundle / "configs" / "demo.json")
    started = time.monotonic()
    for title, words in _steps(places, resolution, knobs):
        _step(title, words)
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    expected = {} if knobs or resolution != 1 else settings.get("expected_dice", {})
    _conclude(places, expected)


def _steps(places: _Places, resolution: int, knobs: dict[str, object]) -> list[tuple[str, list[str]]]:
    """Return each step's title and what python is to run."""
    ours = ["-m", "monai_ext"]
    chosen = [word for key, value in knobs.items() for word in (f"--{key}", str(value))]
    volume = str(places.data / "brain" / "image.nii.gz")
    inference = [*chosen, "--ckpt_path", str(places.models / "model.pt"), "--dataset_dir", volume]
    config = ["--config_file", str(places.bundle / "configs" / "demo.json")]
    exported = ["--ckpt", str(places.models / "model.pt"), "--output_dir", str(places.models), "--image", volume]
    report = ["--bundle_root", str(places.bundle), "--output_dir", str(places.run / "eval")]
    return [
        ("data", [*ours, "demo_data", "--output_dir", str(places.data), "--resolution", str(resolution)]),
        ("training", _bundle_run(places, "training", ["train.json"], [*chosen, "--resume", "True"])),
        ("evaluation on the held-out slab", _bundle_run(places, "evaluating", ["train.json", "evaluate.json"], chosen)),
        ("export", [*ours, "export", str(places.bundle), *exported, *config, *chosen]),
        ("inference of the whole volume", _bundle_run(places, "inferring", ["inference.json"], inference)),
        ("report", [*ours, "report", *report, "--output", str(places.root / "report.html")]),
    ]


def _bundle_run(places: _Places, run_id: str, files: list[str], more: list[str]) -> list[str]:
    listed = [str(places.bundle / "configs" / file) for file in [*files, "demo.json"]]
    words = ["-m", "monai.bundle", "run", run_id, "--bundle_root", str(places.bundle)]
    words += ["--config_file", "[" + ",".join(f"'{file}'" for file in listed) + "]"]
    words += ["--output_dir", str(places.run / "eval"), "--ckpt_dir", str(places.models)]
    data = [] if "--dataset_dir" in more else ["--dataset_dir", str(places.data)]
    return [*words, *data, *more]


def _step(title: str, words: list[str]) -> None:
    print(f"\n== {title}\n$ python {' '.join(words)}", flush=True)
    begun = time.monotonic()
    environment = {**ALLOCATOR, **THREADS, "PYTHONWARNINGS": "ignore", **os.environ}
    status = subprocess.run([sys.executable, *words], env=environment, check=False).returncode
    if status:
        raise InputError(f"{title}: the command above ended with status {status}; run demo again to go on from here.")
    print(f"-- {title}: {time.monotonic() - begun:.0f} s", flush=True)


def _conclude(places: _Places, expected: dict[str, float]) -> None:
    """Print what came out, and fail if it is less than the README promises."""
    summary = read_json(places.run / "eval" / "summary.json")
    scores = {item["name"]: item["metrics"]["dice"]["mean"] for item in summary["classes"]}
    for label, score in scores.items():
        print(f"  Dice {label:14s} {score:.3f}")
    print(f"  report      {places.root / 'report.html'}")
    print(f"  label map   {places.run / 'eval' / 'predictions' / 'image.nii.gz'}")
    print(f"  network     {places.models / 'model.ts'}, {places.models / 'model.onnx'}")
    if not expected:
        return
    mean = sum(scores[label] for label in expected) / len(expected)
    wanted = sum(expected.values()) / len(expected)
    print(f"  mean Dice of {' and '.join(expected)}: {mean:.3f} (promised: at least {wanted:.2f})")
    if mean < wanted:
        raise InputError(f"mean Dice {mean:.3f} is below the promised {wanted:.2f}; please report this as a bug.")
