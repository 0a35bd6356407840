# SPDX-License-Identifier: Apache-2.0
"""MONAI's own commands take SAM2-UNet from any folder, and what is shipped works where nothing else is."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, load
from sam2_unet.network import SAM2UNet
from torch import Tensor

from monai_ext.commands._fire import main
from monai_ext.networks.checkpoints import trunk_state
from tests.bundles.runs import ROOT, TINY, bundle, call, configs, overrides, run
from tests.networks.test_checkpoints import as_sam2

NAME = "sam2_unet"
KNOBS = {name: TINY[name] for name in ("backbone", "image_size", "in_channels", "num_classes", "device")}
ARGUMENTS = {name: value for name, value in KNOBS.items() if name != "device"}
METADATA, TRAIN, INFERENCE = configs(NAME, "metadata.json", "train.json", "inference.json")

ALONE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("monai_ext", "monai", "sam2", "sam2_unet"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, onnxruntime, torch
image = np.load("image.npy")
np.save("script.npy", torch.jit.load("model.ts")(torch.from_numpy(image)).detach().numpy())
session = onnxruntime.InferenceSession("model.onnx")
np.save("graph.npy", session.run(None, {session.get_inputs()[0].name: image})[0])
wide = torch.jit.load("model.ts")(torch.from_numpy(np.load("wide.npy")))
np.save("wide_script.npy", wide.detach().numpy())
"""


def type_command(*words: str) -> None:
    """Run ``python -m monai.bundle WORDS`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["monai.bundle", *words])
        runpy.run_module("monai.bundle", run_name="__main__")


def options(**values: Any) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def metadata() -> dict:
    return json.loads(Path(METADATA).read_text(encoding="utf-8"))


def schema_in(folder: Path) -> Path:
    """MONAI's metadata schema: from where it is published if that answers, else from a copy nearby."""
    path = folder / "schema.json"
    try:
        with urllib.request.urlopen(metadata()["schema"], timeout=2) as answer:
            path.write_bytes(answer.read())
    except OSError:
        copies = [ROOT.parent / "shared" / "data" / "meta_schema_20240725.json"]
        copies += [Path(os.environ["MONAI_EXT_SCHEMA"])] if "MONAI_EXT_SCHEMA" in os.environ else []
        found = [copy for copy in copies if copy.is_file()]
        if not found:
            pytest.skip("offline, and no copy of the schema: name one in MONAI_EXT_SCHEMA")
        path.write_bytes(found[-1].read_bytes())
    return path


def test_verify_metadata_passes_and_would_fail(tmp_path: Path) -> None:
    schema = schema_in(tmp_path)
    type_command("verify_metadata", *options(meta_file=METADATA, filepath=schema))
    wrong = {name: value for name, value in metadata().items() if name != "authors"}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ValueError, match="authors"):
        type_command("verify_metadata", *options(meta_file=tmp_path / "wrong.json", filepath=schema))


@pytest.mark.parametrize("config", [TRAIN, INFERENCE], ids=["train", "inference"])
@pytest.mark.parametrize("side", [1, 50])
def test_verify_net_in_out_passes(config: str, side: int) -> None:
    files = options(meta_file=METADATA, config_file=config)
    type_command("verify_net_in_out", "network_def", *files, *options(backbone="nano", device="cpu", any=side))


def test_verify_net_in_out_finds_a_wrong_number_of_classes() -> None:
    files = options(meta_file=METADATA, config_file=INFERENCE)
    with pytest.raises(ValueError, match="channel"):
        type_command("verify_net_in_out", *files, *options(net_id="network_def", backbone="nano", num_classes=3))


@pytest.fixture(scope="module")
def network(trained: Path) -> SAM2UNet:
    network = SAM2UNet(**ARGUMENTS).eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    return network


@pytest.fixture(scope="module")
def slices(brain: Path) -> tuple[Tensor, Tensor]:
    """A real slice and a cut of it, of another shape."""
    volume = np.asarray(nib.load(brain / "brain" / "image.nii.gz").dataobj, np.float32)
    image = torch.from_numpy(volume[:, :, volume.shape[2] // 2] / volume.max())[None, None]
    return image, image[..., 3:40, 5:42].repeat(3, 1, 1, 1).contiguous()


@pytest.fixture(scope="module")
def exported(
    trained: Path, slices: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """Folder with what MONAI's two export commands wrote and what a bare process computed with it."""
    folder, rest = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("rest")
    weights = options(bundle_root=bundle(NAME), ckpt_file=trained / "models" / "model.pt", config_file=INFERENCE)
    words = [*weights, *options(**KNOBS), "--input_shape", str(list(slices[0].shape))]
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
    exported: tuple[Path, list[str]], network: SAM2UNet, slices: tuple[Tensor, Tensor]
) -> None:
    folder, files = exported
    assert files == ["model.onnx", "model.ts"]
    with torch.no_grad():
        image, wide = network(slices[0]), network(slices[1])
    assert float(image.std()) > 0.01  # else anything would be near
    for name, expected in (("script", image), ("graph", image), ("wide_script", wide)):
        computed = torch.from_numpy(np.load(folder / f"{name}.npy"))
        torch.testing.assert_close(computed, expected, rtol=0, atol=1e-4)


def test_scripting_is_refused_so_export_says_trace(trained: Path, tmp_path: Path) -> None:
    """TorchScript's compiler cannot read the trunk; the day it can, the docs may drop ``--use_trace``."""
    files = options(bundle_root=bundle(NAME), ckpt_file=trained / "models" / "model.pt", config_file=INFERENCE)
    with pytest.raises(Exception, match=r"annotation|script|compil"):
        type_command("ckpt_export", "network_def", *files, *options(**KNOBS, filepath=tmp_path / "model.ts"))
    assert not (tmp_path / "model.ts").exists()


def test_our_own_export_writes_both_with_a_parity_record(trained: Path, brain: Path, tmp_path: Path) -> None:
    words = options(ckpt=trained / "models" / "model.pt", image=brain / "brain" / "image.nii.gz", output_dir=tmp_path)
    assert main(["export", str(bundle(NAME)), *words, "--image_size", "32"]) == 0
    record = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert record["torchscript"]["passed"]
    assert record["onnx"]["passed"]
    assert (record["torchscript"]["dice"], record["onnx"]["dice"]) == (1.0, 1.0)


@pytest.fixture(scope="module")
def copy(trained: Path, exported: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with weights."""
    folder = tmp_path_factory.mktemp("bundles") / NAME
    shutil.copytree(bundle(NAME), folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    (folder / "models").mkdir()
    shutil.copy(trained / "models" / "model.pt", folder / "models")
    shutil.copy(exported[0] / "model.ts", folder / "models")
    return folder


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_monai_load_builds_the_network_with_its_weights(kind: str, copy: Path, network: SAM2UNet) -> None:
    loaded = load(NAME, bundle_dir=copy.parent, workflow_type=kind, net_override=ARGUMENTS, device="cpu")
    assert type(loaded) is SAM2UNet
    state = network.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in loaded.state_dict().items())


def test_monai_load_reads_the_exported_file_with_its_metadata(copy: Path, slices: tuple[Tensor, Tensor]) -> None:
    script, metadata, _ = load(NAME, bundle_dir=copy.parent, load_ts_module=True, device="cpu")
    assert script(slices[0]).shape == (1, 4, *slices[0].shape[2:])
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 1


@pytest.mark.parametrize(("kind", "files"), [("train", (TRAIN,)), ("inference", (INFERENCE,))])
def test_no_property_that_monai_asks_for_is_missing(
    kind: str, files: tuple[str, ...], brain: Path, tmp_path: Path
) -> None:
    workflow = ConfigWorkflow(
        list(files), workflow_type=kind, logging_file=False, bundle_root=str(bundle(NAME)), **overrides(tmp_path, brain)
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(workflow.dataset) if kind == "inference" else len(workflow.train_dataset)
    assert workflow.version == metadata()["version"]


def test_training_starts_from_converted_weights_of_sam2(brain: Path, tmp_path: Path) -> None:
    source = SAM2UNet(backbone="nano").eval()
    torch.save(as_sam2(source, later=True), tmp_path / "sam2.1.pt")
    words = options(source=tmp_path / "sam2.1.pt", output=tmp_path / "trunk.pt")
    assert main(["convert", str(bundle(NAME)), *words]) == 0
    run(NAME, "training", ("train.json",), tmp_path, brain, tuning="frozen", pretrained=str(tmp_path / "trunk.pt"))
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    trunk = trunk_state(source)
    assert trunk
    assert all(torch.equal(weights[name], weight) for name, weight in trunk.items())


def test_two_bundles_in_one_process_keep_apart(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other_method"
    for part in ("configs", "other_method"):
        (other / part).mkdir(parents=True)
    code = "from torch.nn import Conv2d\n\n\nclass SAM2UNet(Conv2d):\n    pass\n"
    (other / "other_method" / "network.py").write_text(code, encoding="utf-8")
    network = {"_target_": "other_method.network.SAM2UNet", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    (other / "configs" / "inference.json").write_text(
        json.dumps({"bundle_root": ".", "network_def": network}), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])  # each run puts its bundle's folder there
    built = []
    for folder, knobs in [(other, {}), (copy, ARGUMENTS)] * 2:  # the one after the other, and again
        file = str(folder / "configs" / "inference.json")
        run = ConfigWorkflow(file, run_id="network_def", logging_file=False, bundle_root=str(folder), **knobs).run()
        built.append(type(run[0]).__module__)
    assert built == ["other_method.network", "sam2_unet.network"] * 2


# what is installed for development does not exist for a process that finds this first
ONLY_THE_WHEEL = """
import sys
from importlib.machinery import PathFinder
class Finder:
    def find_spec(name, path=None, target=None):
        if name in ("monai_ext", "sam2_unet"):
            spec = PathFinder.find_spec(name, [p for p in sys.path if not p.endswith("site-packages")])
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return spec
sys.meta_path.insert(0, Finder)
"""
EDITED = "\nimport monai_ext\nprint('network from', __file__)\nprint('package from', monai_ext.__file__)\n"


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which the wheel was installed, and then nothing but ``monai_ext`` was left."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("monai_ext", "bundles"):
        junk = shutil.ignore_patterns("__pycache__", "eval", "models", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."], source)
    assert built.returncode == 0, built.stderr[-2000:]
    wheel = next((source / "dist").glob("monai_ext-*.whl"))
    installed = call([*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], source)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return folder


def test_the_wheel_has_every_file_of_the_package(wheel_folder: Path) -> None:
    def files(package: Path) -> set[str]:
        found = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return {p.relative_to(package).as_posix() for p in found}

    shipped = files(wheel_folder / "monai_ext")
    assert shipped == files(ROOT / "monai_ext")
    assert {"py.typed", "report/templates/page.html", "report/templates/base.css"} <= shipped
    assert files(wheel_folder / NAME) == files(bundle(NAME) / NAME)
    assert not (wheel_folder / "tests").exists()


def test_a_downloaded_release_runs_its_own_network_with_the_wheel_of_the_package_alone(
    copy: Path, wheel_folder: Path, brain: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(wheel_folder, alone, ignore=shutil.ignore_patterns(NAME))
    (alone / "sitecustomize.py").write_text(ONLY_THE_WHEEL, encoding="utf-8")
    assert main(["pack", str(copy), "--output_dir", "dist"]) == 0
    release = next(Path("dist").glob("*.zip")).resolve().as_uri()
    type_command("download", *options(name=NAME, url=release, bundle_dir=tmp_path / "empty"))
    folder = tmp_path / "empty" / NAME
    with open(folder / NAME / "network.py", "a", encoding="utf-8") as file:
        file.write(EDITED)  # as a researcher may

    image = brain / "brain" / "image.nii.gz"
    for run_id, config, data in (("training", "train", brain), ("inferring", "inference", image)):
        words = ["-m", "monai.bundle", "run", run_id, "--config_file", f"configs/{config}.json"]
        result = call([*words, *options(**TINY, dataset_dir=data)], folder, PYTHONPATH=str(alone))
        assert result.returncode == 0, result.stderr[-2000:]
        assert f"network from {folder / NAME / 'network.py'}" in result.stdout
        assert f"package from {alone / 'monai_ext' / '__init__.py'}" in result.stdout
    assert nib.load(folder / "eval" / "predictions" / "image.nii.gz").shape == nib.load(image).shape
    nowhere = call(["-c", f"import monai_ext, {NAME}"], tmp_path, PYTHONPATH=str(alone))
    assert f"No module named '{NAME}'" in nowhere.stderr
