# SPDX-License-Identifier: Apache-2.0
"""MONAI's own commands take every bundle from any folder, and what they export works where nothing of ours is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.bundle import ConfigWorkflow, load
from torch import Tensor

from tests.bundles.profiles import PROFILES, ROOT, Profile
from tests.bundles.runs import call, configs, options, overrides, read_json, type_command

ALONE = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {("monai_ext", "monai", "sam2", "segment_anything", *PROFILES)}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, onnxruntime, torch
image = np.load("image.npy")
np.save("script.npy", torch.jit.load("model.ts")(torch.from_numpy(image)).detach().numpy())
session = onnxruntime.InferenceSession("model.onnx")
np.save("graph.npy", session.run(None, {{session.get_inputs()[0].name: image}})[0])
wide = torch.jit.load("model.ts")(torch.from_numpy(np.load("wide.npy")))
np.save("wide_script.npy", wide.detach().numpy())
"""


def metadata_of(profile: Profile) -> Path:
    return profile.folder / "configs" / "metadata.json"


def schema_in(folder: Path, address: str) -> Path:
    """MONAI's metadata schema: from where it is published if that answers, else from a copy nearby."""
    path = folder / "schema.json"
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            path.write_bytes(answer.read())
    except OSError:
        copies = [ROOT.parent / "shared" / "data" / "meta_schema_20240725.json"]
        copies += [Path(os.environ["MONAI_EXT_SCHEMA"])] if "MONAI_EXT_SCHEMA" in os.environ else []
        found = [copy for copy in copies if copy.is_file()]
        if not found:
            pytest.skip("offline, and no copy of the schema: name one in MONAI_EXT_SCHEMA")
        path.write_bytes(found[-1].read_bytes())
    return path


def test_verify_metadata_passes_and_would_fail(profile: Profile, tmp_path: Path) -> None:
    metadata = read_json(metadata_of(profile))
    schema = schema_in(tmp_path, metadata["schema"])
    type_command("verify_metadata", *options(meta_file=metadata_of(profile), filepath=schema))
    wrong = {name: value for name, value in metadata.items() if name != "authors"}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ValueError, match="authors"):
        type_command("verify_metadata", *options(meta_file=tmp_path / "wrong.json", filepath=schema))


def as_described(profile: Profile) -> dict[str, object]:
    """The tiny network with the channels that metadata.json speaks of."""
    described = read_json(metadata_of(profile))["network_data_format"]
    channels = {
        "in_channels": described["inputs"]["image"]["num_channels"],
        "num_classes": described["outputs"]["pred"]["num_channels"],
    }
    return {**profile.inference_knobs, **channels}


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
@pytest.mark.parametrize("side", [1, 50])
def test_verify_net_in_out_passes(config: str, side: int, profile: Profile) -> None:
    (file,) = configs(profile.name, config)
    files = options(meta_file=metadata_of(profile), config_file=file)
    type_command("verify_net_in_out", "network_def", *files, *options(**as_described(profile), any=side))


def test_verify_net_in_out_finds_a_wrong_number_of_classes(profile: Profile) -> None:
    (file,) = configs(profile.name, "inference.json")
    words = options(net_id="network_def", meta_file=metadata_of(profile), config_file=file)
    with pytest.raises(ValueError, match="channel"):
        type_command("verify_net_in_out", *words, *options(**{**as_described(profile), "num_classes": 3}))


@pytest.fixture(scope="module")
def network(profile: Profile, trained: Path) -> nn.Module:
    network = profile.network(**profile.arguments).eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    return network


@pytest.fixture(scope="module")
def slices(scan: Path) -> tuple[Tensor, Tensor]:
    """A real slice and a cut of it, of another shape."""
    volume = np.asarray(nib.load(scan).dataobj, np.float32)
    image = torch.from_numpy(volume[:, :, volume.shape[2] // 2] / volume.max())[None, None]
    return image, image[..., 3:40, 5:42].repeat(3, 1, 1, 1).contiguous()


def files_of(profile: Profile, trained: Path) -> list[str]:
    (config,) = configs(profile.name, "inference.json")
    files = {"bundle_root": profile.folder, "ckpt_file": trained / "models" / "model.pt", "config_file": config}
    return options(**files, **profile.inference_knobs)


@pytest.fixture(scope="module")
def exported(
    profile: Profile, trained: Path, slices: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """Folder with what MONAI's two export commands wrote and what a bare process computed with it."""
    folder, rest = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("rest")
    words = [*files_of(profile, trained), "--input_shape", str(list(slices[0].shape))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(rest))  # onnx_export leaves a file as large as the weights
        type_command("ckpt_export", "network_def", *words, "--use_trace", "True", "--filepath", f"{folder}/model.ts")
        type_command("onnx_export", "network_def", *words, "--filepath", f"{folder}/model.onnx")
    np.save(folder / "image.npy", slices[0].numpy())
    np.save(folder / "wide.npy", slices[1].numpy())
    result = call(["-I", "-c", ALONE], folder)
    assert result.returncode == 0, result.stderr[-2000:]
    yield folder, sorted(p.name for p in folder.glob("model.*"))
    shutil.rmtree(rest)


def test_exported_files_compute_what_the_network_does_where_nothing_of_ours_is(
    exported: tuple[Path, list[str]], network: nn.Module, slices: tuple[Tensor, Tensor]
) -> None:
    folder, files = exported
    assert files == ["model.onnx", "model.ts"]
    with torch.no_grad():
        image, wide = network(slices[0]), network(slices[1])
    assert float(image.std()) > 0.01  # else anything would be near
    for name, expected in (("script", image), ("graph", image), ("wide_script", wide)):
        computed = torch.from_numpy(np.load(folder / f"{name}.npy"))
        torch.testing.assert_close(computed, expected, rtol=0, atol=1e-4)


def test_scripting_is_refused_so_export_says_trace(profile: Profile, trained: Path, tmp_path: Path) -> None:
    """TorchScript's compiler cannot read these networks; the day it can, the docs may drop ``--use_trace``."""
    words = [*files_of(profile, trained), *options(filepath=tmp_path / "model.ts")]
    with pytest.raises(Exception, match=r"annotation|script|compil"):
        type_command("ckpt_export", "network_def", *words)
    assert not (tmp_path / "model.ts").exists()


@pytest.fixture(scope="module")
def copy(
    profile: Profile, trained: Path, exported: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the bundle with weights, exported and not."""
    folder = tmp_path_factory.mktemp("bundles") / profile.name
    shutil.copytree(profile.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    (folder / "models").mkdir()
    shutil.copy(trained / "models" / "model.pt", folder / "models")
    shutil.copy(exported[0] / "model.ts", folder / "models")
    return folder


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_monai_load_builds_the_network_with_its_weights(
    kind: str, profile: Profile, copy: Path, network: nn.Module
) -> None:
    where = {"bundle_dir": copy.parent, "device": "cpu"}
    loaded = load(profile.name, workflow_type=kind, net_override=profile.arguments, **where)
    assert type(loaded) is profile.network
    state = network.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in loaded.state_dict().items())


def test_monai_load_reads_the_exported_file_with_its_metadata(
    profile: Profile, copy: Path, slices: tuple[Tensor, Tensor]
) -> None:
    script, metadata, _ = load(profile.name, bundle_dir=copy.parent, load_ts_module=True, device="cpu")
    assert script(slices[0]).shape == (1, profile.tiny["num_classes"], *slices[0].shape[2:])
    assert metadata["network_data_format"] == read_json(metadata_of(profile))["network_data_format"]


@pytest.mark.parametrize(("kind", "part"), [("train", "train_dataset"), ("inference", "dataset")])
def test_no_property_that_monai_asks_for_is_missing(
    kind: str, part: str, profile: Profile, data: Path, tmp_path: Path
) -> None:
    (file,) = configs(profile.name, f"{kind}.json")
    where = {"bundle_root": str(profile.folder), **overrides(profile.name, tmp_path, data)}
    workflow = ConfigWorkflow(file, workflow_type=kind, logging_file=False, **where)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(getattr(workflow, part))
    assert workflow.version == read_json(metadata_of(profile))["version"]
