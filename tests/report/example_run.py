# SPDX-License-Identifier: Apache-2.0
"""A small run as a bundle writes it: synthetic spheres as NIfTI volumes or PNG pictures, scores computed from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

CLASSES = {1: "inner", 2: "outer"}
CONVENTIONS: dict[str, object] = {
    "prompt_source": "none",
    "slices": "all",
    "empty_both": "Dice is 1",
    "nsd_tolerance_mm": 1.0,
    "bootstrap": {"samples": 1000, "seed": 0, "level": 0.95},
}
METRICS = ("dice", "iou", "hd95_mm", "asd_mm", "nsd")


def write_run(
    root: Path, flat: bool = False, cases: int = 3, prefix: str = "case", prompts: bool = False
) -> tuple[Path, Path]:
    """Write a bundle with a finished run and return (bundle_root, output_dir).

    With ``prompts``, as a network leaves it that prompts itself: the box of each slice is one pixel wider than the
    prediction, slices without prediction have none, and the first mask and the true box are scored beside it.
    """
    bundle, output = root / "bundle", root / "bundle" / "eval"
    for folder in ("configs", "docs", "models", "eval/overlays", "eval/predictions"):
        (bundle / folder).mkdir(parents=True)
    rows = [row for number in range(cases) for row in _write_case(root, output, number, flat, prefix, prompts)]
    _write_rows(output / "cases.csv", rows)
    Image.new("RGB", (60, 20), "teal").save(output / "overlays" / "epoch_0002.png")
    _write_json(output / "summary.json", _summary(rows, cases))
    _write_json(output / "run.json", _run())
    _write_json(output / "history.json", {"epochs": _epochs()})
    _write_json(bundle / "models" / "parity.json", _parity())
    _write_json(bundle / "configs" / "metadata.json", _metadata())
    (bundle / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n", encoding="utf-8")
    (bundle / "docs" / "data_license.txt").write_text("Synthetic spheres, free of rights.\n", encoding="utf-8")
    (bundle / "large_files.yml").write_text(
        "large_files:\n- path: models/trunk.pt\n  url: https://example.org/trunk.pt\n  licence: BSD-3-Clause\n"
        "  hash_type: sha256\n  hash_val: " + "ab" * 32 + "\n",
        encoding="utf-8",
    )
    if prompts:
        edit_json(output / "summary.json", conventions={**CONVENTIONS, "prompt_source": "self"})
        _write_variant(output / "first_mask", rows, "null", 0.9)
        _write_variant(output / "true_box", rows, "truth", 1.05)
    return bundle, output


def write_prompts(path: Path, prediction: np.ndarray, **changes: object) -> None:
    """Write the record beside a prediction (X, Y, Z) in RAS, or (rows, columns) of a picture."""
    slices = prediction[None] if prediction.ndim == 2 else prediction.transpose(2, 1, 0)[:, ::-1, ::-1]
    found = [_slice_prompt(index, mask > 0) for index, mask in enumerate(slices)]
    record = {"case": path.name.removesuffix("_prompts.json"), "plane": "axial", "prompt_source": "self"}
    _write_json(path, {**record, "slices": found, **changes})


def _slice_prompt(index: int, mask: np.ndarray) -> dict[str, object]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return {"index": index, "prompt": "null", "box": None}
    box = [columns.min() - 1, rows.min() - 1, columns.max() + 1, rows.max() + 1]
    return {"index": index, "prompt": "self", "box": [int(value) for value in box]}


def _write_variant(folder: Path, rows: list[dict[str, object]], source: str, factor: float) -> None:
    folder.mkdir()
    changed = [{**row, "dice": min(1.0, float(str(row["dice"])) * factor)} for row in rows]
    summary = _summary(changed, len({row["case"] for row in rows}))
    _write_rows(folder / "cases.csv", changed)
    _write_json(folder / "summary.json", summary)
    edit_json(folder / "summary.json", conventions={"prompt_source": source})


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def edit_json(path: Path, **changes: object) -> None:
    """Replace keys of a JSON file."""
    _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def _write_case(
    root: Path, output: Path, number: int, flat: bool, prefix: str, prompts: bool
) -> list[dict[str, object]]:
    name = f"{prefix}_{number}"
    z, y, x = np.mgrid[:14, :24, :20]
    radius = np.sqrt((x - 10) ** 2 + (y - 12) ** 2 + (1.5 * (z - 7)) ** 2).T  # (X, Y, Z)
    truth = ((radius < 8).astype(np.uint8) + (radius < 8)) - (radius < 4)
    moved = np.roll(radius, 1 + number, axis=0)
    prediction = ((moved < 8).astype(np.uint8) + (moved < 8)) - (moved < 4)
    image = np.random.default_rng(number).normal(100, 8, radius.shape) + 60 * truth
    write = _write_pictures if flat else _write_volumes
    files = write(root, output, name, image, truth.astype(np.uint8), prediction.astype(np.uint8))
    if prompts:
        found = prediction[..., 7] if flat else prediction
        write_prompts(output / "predictions" / f"{name}_prompts.json", found)
    return [_row(name, number, files, index, truth == index, prediction == index) for index in CLASSES]


def _write_volumes(
    root: Path, output: Path, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> list[Path]:
    paths = [root / f"{name}.nii.gz", root / f"{name}_label.nii.gz", output / "predictions" / f"{name}.nii.gz"]
    for path, voxels in zip(paths, (image.astype(np.int16), truth, prediction), strict=True):
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.5, 1.0])), path)
    return paths


def _write_pictures(
    root: Path, output: Path, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> list[Path]:
    paths = [root / f"{name}.png", root / f"{name}_label.png", output / "predictions" / f"{name}.png"]
    colour = np.repeat(image[..., 7, None].clip(0, 255).astype(np.uint8), 3, axis=2)
    for path, pixels in zip(paths, (colour, truth[..., 7], prediction[..., 7]), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def _row(
    name: str, number: int, files: list[Path], index: int, truth: np.ndarray, prediction: np.ndarray
) -> dict[str, object]:
    overlap, total = int((truth & prediction).sum()), int(truth.sum() + prediction.sum())
    dice = 2 * overlap / total
    return {
        "case": name,
        **dict(zip(("image", "label", "prediction"), map(str, files), strict=True)),
        "site": f"site {number % 2}",
        "subject": f"s{number:02d}",
        "class": index,
        "class_name": CLASSES[index],
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd95_mm": "" if number == 0 else number + index,
        "asd_mm": 1 - dice,
        "nsd": dice,
        "truth_voxels": int(truth.sum()),
        "predicted_voxels": int(prediction.sum()),
    }


def _summary(rows: list[dict[str, object]], cases: int) -> dict[str, object]:
    def record(chosen: list[dict[str, object]], metric: str) -> dict[str, object]:
        values = np.array([float(str(row[metric])) for row in chosen if row[metric] != ""])
        names = ("mean", "median", "std", "low", "high")
        found = (values.mean(), np.median(values), values.std(), values.min(), values.max())
        return {**{key: float(value) for key, value in zip(names, found, strict=True)}, "n": len(values)}

    by_class = {index: [row for row in rows if row["class"] == index] for index in CLASSES}
    return {
        "cases": cases,
        "classes": [
            {"class": index, "name": CLASSES[index], "metrics": {key: record(found, key) for key in METRICS}}
            for index, found in by_class.items()
        ],
        "mean_foreground": {key: record(rows, key) for key in METRICS},
        "sites": {site: {"dice": 0.5} for site in sorted({str(row["site"]) for row in rows})},
        "conventions": CONVENTIONS,
    }


def _run() -> dict[str, object]:
    return {
        "bundle": "spheres",
        "bundle_version": "0.2.0",
        "started": "2026-01-02T03:04:05",
        "finished": "2026-01-02T03:06:05",
        "seconds": 120.0,
        "status": "finished",
        "seed": 7,
        "knobs": {"learning_rate": 0.001, "image_size": [64, 64], "amp": False},
        "files": {"weights/sam_vit_b.pth": {"knob": "pretrained", "bytes": 9, "sha256": "0123456789abcdef" * 4}},
        "config_files": ["configs/train.json"],
        "command": "python -m monai.bundle run training --seed 7",
        "versions": {"python": "3.11", "torch": "2.9", "monai": "1.6.1", "monai_ext": "0.1.0"},
        "hardware": {"cpu": "two cores", "cores": 2, "gpus": [], "processes": 1},
        "parameters": {"trainable": 1234, "total": 56789},
        "best": {"metric": "val_mean_dice", "value": 0.8, "epoch": 4},
        "device": "cpu",
    }


def _epochs() -> list[dict[str, object]]:
    epochs: list[dict[str, object]] = [
        {"epoch": epoch, "train_loss": 2.0 / epoch, "learning_rate": 1e-3 / epoch, "seconds": 30.0}
        for epoch in range(1, 5)
    ]
    for epoch in (2, 4):
        epochs[epoch - 1]["val_mean_dice"] = 0.2 * epoch
    return epochs


def _parity() -> dict[str, object]:
    exported = {"file": "models/model.ts", "sha256": "cd" * 32, "max_abs_difference": 2e-6, "dice": 1.0}
    return {
        "created": "2026-01-02",
        "image": "case_0.nii.gz",
        "weights_sha256": "ef" * 32,
        "torchscript": exported,
        "onnx": {**exported, "file": "models/model.onnx", "max_abs_difference": 0.5, "opset": 17},
        "tolerance": 1e-4,
    }


def _metadata() -> dict[str, object]:
    return {
        "name": "Spheres",
        "description": "Segments spheres.",
        "data_source": "generated",
        "references": ["Someone. Spheres. 2024. https://arxiv.org/abs/0000.00000"],
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
