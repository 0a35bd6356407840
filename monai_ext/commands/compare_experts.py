# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext compare_experts`: what experts are worth, all of them, none, and each alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.commands._run_step import as_words, bundle_words, run_step
from monai_ext.commands._training_time import TrainingTime
from monai_ext.errors import InputError

LEVELS = ("image", "patch", "pixel")
UNLIMITED = 100_000  # epochs, of a training that its time ends
Scores = dict[str, dict[int, float]]  # variant -> seed -> mean Dice


@dataclass(frozen=True)
class _Plan:
    bundle: Path
    data: Path
    models: Path
    root: Path
    config: str
    knobs: dict[str, object]

    @property
    def path(self) -> Path:
        """The config on top; what is no path lies in the bundle's configs."""
        return Path(self.config) if Path(self.config).is_file() else self.bundle / "configs" / self.config

    def folder(self, variant: str, seed: int) -> Path:
        """Where a run's files lie."""
        return self.root / variant / f"seed_{seed}"


def compare_experts(
    bundle_root: str,
    dataset_dir: str,
    models: str,
    output_dir: str = "experts",
    config: str = "compare_experts.json",
    seeds: int = 3,
    **knobs: object,
) -> None:
    """Fine-tune with all experts, with none, and with each alone, for several seeds; write what each scores.

    The first variant of the config's compared_experts trains for its epochs; each other one is given the same training
    time, seed by seed, with the same decoder, data and rate. On a CPU it is the processor's time, so that other
    programs do not decide; on a GPU it is the clock's, and nothing else should run meanwhile. Writes experts.json and
    experts.csv: mean Dice of each variant over the seeds, differences to the first, and 95 % intervals (Student's). Run
    it again after an interruption and it goes on where it stopped.

    Args:
        bundle_root: bundle, by name or path.
        dataset_dir: labelled data, as training takes them.
        models: folder with expert_image.safetensors, expert_patch.safetensors and expert_pixel.safetensors, such as
            demo/samora/models of the demo; its pretrained/base.pt, if there is one, is the frozen base (else name
            --pretrained).
        output_dir: folder for runs and results.
        config: config on top, in the bundle's configs or by path, that lists compared_experts: name -> knobs.
        seeds: how many seeds, from 0.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 20.

    Example:
        python -m monai_ext compare_experts samora --dataset_dir demo/data/datalist_tissue.json --models M
    """
    data, experts, root = (Path(place).absolute() for place in (dataset_dir, models, output_dir))
    plan = _Plan(find_bundle(bundle_root), data, experts, root, config, dict(knobs))
    variants = _variants_of(plan)
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}.")
    for seed in range(seeds):
        for name, own in variants.items():
            _train_and_evaluate(plan, name, own, seed, next(iter(variants)))
    content = _collect(plan, list(variants), range(seeds))
    _write(plan.root, content)


def _variants_of(plan: _Plan) -> dict[str, dict[str, object]]:
    variants: dict[str, dict[str, object]] = read_json(plan.path).get("compared_experts") or {}
    if not variants:
        raise InputError(f"{plan.path}: must list compared_experts, name -> knobs, the one to compare with first.")
    missing = [
        file for own in variants.values() for file in _expert_files(plan, own).values() if not Path(str(file)).is_file()
    ]
    if missing:
        raise InputError(f"{missing[0]}: there is no such expert; train it first, or name the folder with --models.")
    return variants


def _expert_files(plan: _Plan, own: Mapping[str, object]) -> dict[str, object]:
    levels = {**plan.knobs, **own}.get("experts", LEVELS)
    return {f"expert_{level}": plan.models / f"expert_{level}.safetensors" for level in LEVELS if level in levels}  # type: ignore[operator]


def _train_and_evaluate(plan: _Plan, name: str, own: Mapping[str, object], seed: int, first: str) -> None:
    folder, base = plan.folder(name, seed), plan.models / "pretrained" / "base.pt"
    given = {
        "dataset_dir": plan.data,
        "output_dir": folder / "eval",
        "ckpt_dir": folder / "models",
        **({"pretrained": base} if base.is_file() else {}),
        **plan.knobs,
        **own,
        "seed": seed,
        **_expert_files(plan, own),
    }
    if name != first:
        given.update(max_epochs=UNLIMITED, **TrainingTime.of(plan.folder(first, seed)).knobs())
    words, config = as_words(given), str(plan.path)
    training = [*bundle_words(plan.bundle, "training", ["train.json", config]), *words]
    evaluation = [*bundle_words(plan.bundle, "evaluating", ["train.json", "evaluate.json", config]), *words]
    from monai_ext.files import sha256_of, write_json

    record, asked = folder / "finished.json", {"training": training, "config": sha256_of(plan.path)}
    if record.is_file() and read_json(record) == asked:
        print(f"-- {name}, seed {seed}: is there already", flush=True)
        return
    run_step(f"{name}, seed {seed}: training", [*training, "--resume", "True"], "compare_experts")
    run_step(f"{name}, seed {seed}: evaluation", evaluation, "compare_experts")
    write_json(record, asked)


def _collect(plan: _Plan, variants: list[str], seeds: range) -> dict[str, Any]:
    scores: Scores = {name: {seed: _dice_of(plan.folder(name, seed)) for seed in seeds} for name in variants}
    first = variants[0]
    return {
        "bundle": plan.bundle.name,
        "seeds": list(seeds),
        "variants": {
            name: {
                **_over_seeds(list(own.values())),
                "runs": {str(seed): dice for seed, dice in own.items()},
                "training_seconds": {str(seed): TrainingTime.of(plan.folder(name, seed)).seconds for seed in seeds},
            }
            for name, own in scores.items()
        },
        "compared": {
            f"{first} less {name}": _over_seeds([scores[first][seed] - own[seed] for seed in seeds])
            for name, own in scores.items()
            if name != first
        },
        "interval": "95 %, Student's, over seeds; cases and data are the same in all runs",
    }


def _dice_of(folder: Path) -> float:
    return float(read_json(folder / "eval" / "summary.json")["mean_foreground"]["dice"]["mean"])


def _over_seeds(values: list[float]) -> dict[str, float | None]:
    from monai_ext.metrics.t_interval import t_interval

    low, high = t_interval(values)
    return {"mean_dice": sum(values) / len(values), "low": low, "high": high}


def _write(root: Path, content: Mapping[str, Any]) -> None:
    from monai_ext.files import write_json
    from monai_ext.tables import write_table

    write_json(root / "experts.json", content)
    rows = [
        {"variant": name, "seed": seed, "dice": dice, "training_seconds": entry["training_seconds"][seed]}
        for name, entry in content["variants"].items()
        for seed, dice in entry["runs"].items()
    ]
    write_table(root / "experts.csv", ("variant", "seed", "dice", "training_seconds"), rows)
    print()
    for name, entry in {**content["variants"], **content["compared"]}.items():
        interval = "" if entry["low"] is None else f"   [{entry['low']:+.4f}, {entry['high']:+.4f}]"
        print(f"  Dice {name:20s} {entry['mean_dice']:+.4f}{interval}")
    print(f"  {root / 'experts.json'}", flush=True)
