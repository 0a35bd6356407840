# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext export`: TorchScript and ONNX files, and the proof that they compute the same."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.commands._bundle import find_bundle, read_metadata
from monai_ext.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.nn as nn
    from monai.bundle import ConfigParser
    from torch import Tensor

TOLERANCE = 1e-4
FORMATS = ("torchscript", "onnx", "plain_sam")


def export(
    name: str | None = None,
    bundle_root: str | None = None,
    ckpt: str | None = None,
    image: str | None = None,
    output_dir: str | None = None,
    config_file: str | None = None,
    formats: str | None = None,
    plain_image_size: int | None = None,
    **knobs: object,
) -> None:
    """Write model.ts (TorchScript), model.onnx and parity.json, which compares both with the network.

    The network is that of configs/inference.json, with what the weights themselves tell (backbone, number of
    classes, tuning); name other knobs that training was given, above all --image_size. All weights must fit.
    LoRA is merged first. Both files are loaded again and run on a real image: --image, else the first of the
    config's dataset_dir, else random values. The exit status is 1, and the files are kept, if any logit differs
    by more than 1e-4. Embeddings are compared likewise, and by the cosine of the vectors.

    model.ts needs PyTorch only, model.onnx onnxruntime only: neither needs this project. A network that stands on
    Segment Anything is also written as plain_sam.pth, which the package segment-anything loads. Most of the time goes
    into ONNX: `--formats torchscript` leaves it out, and does not need its packages. parity.json then speaks only of
    what was written; what an earlier export left beside it is not compared.

    Args:
        name: bundle, by name or path.
        bundle_root: the same, as MONAI's commands call it.
        ckpt: weights. Default: models/model.pt of the bundle.
        image: image, volume or data list to compare on; it goes through the bundle's own preprocessing.
        output_dir: where to write. Default: models of the bundle.
        config_file: another config on top of inference.json, such as demo.json.
        formats: what to write, with commas: torchscript, onnx, plain_sam. Default: all that the network has.
        plain_image_size: resize the positions in plain_sam.pth to this image size; 1024 is what the package builds.
        knobs: top-level entries of inference.json to change, as for `monai.bundle run`.

    Example:
        python -m monai_ext export sam2_unet --image slice.png --image_size 352
        python -m monai_ext export sam2_unet --formats torchscript
    """
    if not (name or bundle_root):
        raise InputError("export: name the bundle, as in `python -m monai_ext export sam2_unet`.")
    bundle = find_bundle(bundle_root or name or "")
    weights = Path(ckpt) if ckpt else bundle / "models" / "model.pt"
    if not weights.is_file():
        raise InputError(f"{weights}: there are no weights to export; train first, or name a file with --ckpt.")
    target = Path(output_dir) if output_dir else bundle / "models"
    asked = _formats_of(formats, plain_image_size)

    if asked is None or "onnx" in asked:
        from monai_ext.shipping.export_files import require_onnx

        require_onnx()  # before minutes of work
    parser = _inference_for(bundle, weights, knobs, config_file)
    record = _export(bundle, parser, weights, Path(image) if image else None, target, asked, plain_image_size)
    print(f"compared on: {record['image']}")
    parts = [record[kind] for kind in FORMATS if kind in record]
    for part in parts:
        print(_line_of(part))
    print(f"wrote {target / 'parity.json'}")
    if not all(part["passed"] for part in parts):
        print(f"FAILED: a file differs by more than {TOLERANCE} of the largest logit; do not use it.")
        raise SystemExit(1)


def _formats_of(text: str | None, plain_image_size: int | None) -> list[str] | None:
    """Read what is to be written; None if the user leaves it to the network."""
    if text is None:
        return None
    asked = [word.strip() for word in text.split(",")]
    unknown = [word for word in asked if word not in FORMATS]
    if unknown:
        raise InputError(f"formats: {unknown[0]!r} is none of {', '.join(FORMATS)}; name some of them, with commas.")
    if plain_image_size is not None and "plain_sam" not in asked:
        raise InputError(
            "plain_image_size: is for plain_sam, which formats leaves out; name it there or leave this out."
        )
    return asked


def _inference_for(bundle: Path, weights: Path, knobs: dict[str, object], config_file: str | None) -> ConfigParser:
    """Read inference.json with the network's arguments that names and shapes of the weights tell."""
    from monai_ext.networks.checkpoints import IMPORTERS, read_state
    from monai_ext.shipping.bundle_network import package_of, read_inference

    importer = IMPORTERS.get(package_of(read_inference(bundle)))
    if importer is None:
        return read_inference(bundle, None, knobs, config_file)
    imported = importer(read_state(weights), str(weights))
    told = dict(imported.knobs)
    stated = read_inference(bundle, None, knobs, config_file)
    for name, values in imported.ambiguous.items():
        if stated.get(name) in values:
            told[name] = stated[name]
        if name not in knobs:
            others = " or ".join(str(value) for value in values if value != told[name])
            print(f"the weights also fit {name} {others}: give --{name} if {told[name]} is not what they were made for")
    print("told by the weights: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    return read_inference(bundle, told, knobs, config_file)


def _export(
    bundle: Path,
    parser: ConfigParser,
    weights: Path,
    image: Path | None,
    target: Path,
    asked: list[str] | None,
    plain_image_size: int | None,
) -> dict[str, Any]:
    import torch

    from monai_ext.files import sha256_of, write_json
    from monai_ext.shipping.bundle_network import load_network
    from monai_ext.shipping.outputs import named_outputs
    from monai_ext.shipping.plain_sam import HasPlainSam, require_plain, require_plain_size, write_plain_sam
    from monai_ext.shipping.sample_image import sample_input

    network = load_network(parser, weights)
    if asked is not None and "plain_sam" in asked:
        require_plain(network, "plain_sam")
    require_plain_size(network, plain_image_size)
    sample, description = sample_input(parser, network, image)
    wide = _another_form(sample)
    with torch.no_grad():  # before merging, so that a wrong merge shows
        expected, expected_wide = (
            {name: x.clone() for name, x in named_outputs(network(image)).items()} for image in (sample, wide)
        )
    plain = {}
    if isinstance(network, HasPlainSam) and (asked is None or "plain_sam" in asked):
        print("writing plain Segment Anything ...", flush=True)
        plain = {"plain_sam": write_plain_sam(network, target / "plain_sam.pth", TOLERANCE, plain_image_size)}
    network = _merged(network).requires_grad_(False)
    pairs = [(sample, expected), (wide, expected_wide)]
    record = {
        "created": _now(),
        "bundle": f"{bundle.name} {read_metadata(bundle).get('version', '?')}",
        "network": str(parser.get("network_def", {}).get("_target_")),
        "weights_sha256": sha256_of(weights),
        "image": description,
        **_graphs(network, pairs, target, FORMATS if asked is None else asked, _segments(bundle)),
        **plain,
        "tolerance": TOLERANCE,
        "versions": _versions(),
    }
    write_json(target / "parity.json", record)
    return record


def _graphs(
    network: nn.Module,
    pairs: list[tuple[Tensor, dict[str, Tensor]]],
    target: Path,
    formats: Sequence[str],
    segments: bool,
) -> dict[str, Any]:
    """Write TorchScript and ONNX, as far as they are wanted, and compare them on the images with their outputs."""
    from monai_ext.shipping.export_files import opset_of, write_onnx, write_torchscript
    from monai_ext.shipping.parity import parity_of

    (sample, expected), other = pairs

    def compared(path: Path, axes: list[str]) -> dict[str, Any]:
        second = other if {"height", "width"} <= set(axes) else None
        return {**parity_of(path, sample, expected, TOLERANCE, second, segments), "free_axes": axes}

    record: dict[str, Any] = {}
    if "torchscript" in formats:
        print(f"tracing {type(network).__name__} for TorchScript ...", flush=True)
        path = target / "model.ts"
        record["torchscript"] = compared(path, write_torchscript(network, sample, path))
    if "onnx" in formats:
        print("exporting ONNX ...", flush=True)
        path = target / "model.onnx"
        record["onnx"] = {**compared(path, write_onnx(network, sample, path)), "opset": opset_of(path)}
    return record


def _another_form(sample: Tensor) -> Tensor:
    """Cut the image to another size: wide, since traces are made of high ones; a volume is cut along each axis."""
    if sample.ndim == 4:
        return sample[:, :, : max(1, min(sample.shape[2:]) * 3 // 4)].contiguous()
    for axis, side in enumerate(sample.shape[2:], start=2):
        sample = sample.narrow(axis, 0, max(1, side * 3 // 4))
    return sample.contiguous()


def _segments(bundle: Path) -> bool:
    """Whether the outputs are logits of label maps; metadata.json says of others that they are embeddings."""
    outputs = read_metadata(bundle).get("network_data_format", {}).get("outputs", {})
    return outputs.get("pred", {}).get("format") != "embedding"


def _merged(network: nn.Module) -> nn.Module:
    """Fold LoRA into the weights, in place or as the method returns it, if the network knows how to."""
    for method in ("merge_lora", "merge"):
        if callable(getattr(network, method, None)):
            merged = getattr(network, method)()
            return network if merged is None else merged.eval()
    return network


def _line_of(part: dict[str, Any]) -> str:
    verdict = f"{part['file']:<11} {'ok' if part['passed'] else 'FAILED'}: "
    if "sam_type" in part:
        note = f"; {part['note']}" if part["note"] else ""
        return (
            f"{verdict}its {part['keys']} keys load strictly into plain {part['sam_type']}, largest difference of the "
            f"embedding {part['max_abs_difference']:.1e}{note}"
        )
    free = ", ".join(part["free_axes"]) or "none"
    agreement = f"Dice {part['dice']:.4f}" if "dice" in part else f"smallest cosine {part['smallest_cosine']:.6f}"
    return f"{verdict}largest difference {part['max_abs_difference']:.1e}, {agreement}, free sizes: {free}"


def _now() -> str:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "monai_ext": version("monai-ext")}
    for name in ("torch", "monai", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):  # ONNX's are not needed for the other formats
            found[name] = version(name)
    return found
