# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext convert`: published weights become this project's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.commands._bundle import find_bundle
from monai_ext.errors import InputError

if TYPE_CHECKING:
    from monai_ext.networks.checkpoints import ImportedState

LICENCES = {
    "sam2": "Apache-2.0 (SAM 2, Meta)",
    "sam2_trunk": "as the source; SAM 2's own weights: Apache-2.0",
    "sam2_unet": "not stated with the file; see https://github.com/WZH0120/SAM2-UNet",
    "desam": "not stated with the file; see https://github.com/yifangao112/DeSAM",
    "sam": "as the source; Meta's own Segment Anything weights: Apache-2.0",
    "published": (
        "not stated with the file; the authors' code is MIT, see "
        "https://github.com/alibaba-damo-academy/self-supervised-anatomical-embedding-v2"
    ),
}


def convert(name: str, source: str | None = None, output: str | None = None, overwrite: bool = False) -> None:
    """Import published weights: of the method, or of the foundation model that it starts from.

    Recognises what the file holds and which backbone it is from names and shapes, checks every name and shape
    against the network, and writes a plain state dict, with a JSON file beside it that says where it came from.
    Files that ask for code to be run are refused. Without --source it says where weights are published.

    For sam2_unet: a SAM 2 or SAM 2.1 checkpoint, its trunk alone, the authors' SAM2-UNet .pth, or our own model.pt.
    For sam_sp, desam and samora: a Segment Anything checkpoint (ViT-B, L or H; MedSAM's is one, too) or our own
    model.pt; for desam also what the authors' training code writes. Weights are written at the image size they were
    made for; training resizes them to its own. For anatomical_embedding: the authors' SAM.pth or SAMv2 file, or our
    own model.pt.

    Args:
        name: bundle, by name or path.
        source: the published file (.pt, .pth, .safetensors).
        output: file to write, .pt or .safetensors. Default: for a foundation model's weights, models/pretrained/ of
            the bundle (trunk.pt for SAM 2, sam.pt for Segment Anything); for those of a whole network, models/model.pt.
        overwrite: replace an existing output.

    Example:
        python -m monai_ext convert sam2_unet --source sam2.1_hiera_large.pt --output trunk.pt
    """
    bundle = find_bundle(name)
    if source is None or not Path(source).is_file():
        raise InputError(_where_to_get(bundle, source))

    from monai_ext.networks.checkpoints import WEIGHT_SOURCES, check, read_state
    from monai_ext.shipping.bundle_network import build, package_of, read_inference

    package = package_of(read_inference(bundle))
    if package not in WEIGHT_SOURCES:
        raise InputError(f"{name}: there are no published weights to import; one of: {', '.join(WEIGHT_SOURCES)}.")
    kind = WEIGHT_SOURCES[package]
    imported = kind.importer(read_state(source), source)
    # apart from model.pt: MONAI Label offers every file of models/ as a whole network
    default = Path("pretrained", kind.foundation_file) if imported.foundation_only else Path("model.pt")
    target = Path(output) if output else bundle / "models" / default
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists; give another --output, or --overwrite to replace it.")

    network = build(read_inference(bundle, imported.knobs), "network_def")
    match = check(
        imported.state, kind.foundation(network) if imported.foundation_only else network.state_dict(), source
    )
    knobs = {n: v for n, v in imported.knobs.items() if not imported.foundation_only or n in kind.foundation_knobs}
    print(f"{source}: {imported.kind}, {', '.join(f'{name} {value}' for name, value in knobs.items())}")
    print(f"{match}; {len(imported.left_out)} left out on purpose{_first_parts(imported.left_out)}")
    rest = len(network.state_dict()) - len(match.matched)
    if rest:
        print(f"the other {rest} keys of the network stay as initialised")
    _write(imported, knobs, Path(source), target)
    print(f"wrote {target} and {target.name}.json")


def _where_to_get(bundle: Path, source: str | None) -> str:
    """Say in one line where the file that was meant, or any, is published, and where to put it."""
    files = _published(bundle)
    problem = f"{source}: there is no such file" if source else "no --source given"
    if not files:
        return f"{problem}, and {bundle.name}/large_files.yml names no published weights; give the path of yours."
    meant = [file for file in files if source and Path(source).name == Path(file["path"]).name] or files
    places = ", ".join(f"{file['url']} -> {bundle.name}/{file['path']}" for file in meant)
    return (
        f"{problem}; get one and put it in place: {places} (licences in {bundle.name}/large_files.yml); or all of them "
        f"with `python -m monai.bundle download_large_files --bundle_path {bundle}`."
    )


def _published(bundle: Path) -> list[dict[str, Any]]:
    import yaml

    path = bundle / "large_files.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"] if path.is_file() else []


def _first_parts(names: tuple[str, ...]) -> str:
    parts = sorted({name.split(".", 1)[0] for name in names})
    return f" ({', '.join(parts)})" if parts else ""


def _write(imported: ImportedState, knobs: dict[str, object], source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from monai_ext.files import atomic_write, sha256_of, write_json

    if target.suffix not in (".pt", ".pth", ".safetensors"):
        raise InputError(f"{target}: must end in .pt or .safetensors.")
    record = {
        "source": source.name,
        "source_sha256": sha256_of(source),
        "kind": imported.kind,
        "knobs": knobs,
        "keys": len(imported.state),
        "licence": LICENCES.get(imported.kind, "as the source"),
    }
    # clones: neither format may write more than the weights because a tensor is a view of something larger
    state = {name: weight.detach().clone().contiguous() for name, weight in imported.state.items()}
    with atomic_write(target) as temporary:
        if target.suffix == ".safetensors":
            save_file(state, temporary, metadata={name: str(value) for name, value in record.items()})
        else:
            torch.save(state, temporary)
    write_json(target.with_name(target.name + ".json"), {**record, "sha256": sha256_of(target)})
