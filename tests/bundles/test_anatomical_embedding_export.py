# SPDX-License-Identifier: Apache-2.0
"""MONAI's own export commands and MONAI Label's training take the bundle that matches points as it is."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.bundles.profiles import ANATOMICAL_EMBEDDING
from tests.bundles.runs import call, configs, options, read_json, type_command

BARE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("monai_ext", "monai", "anatomical_embedding"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, onnxruntime, torch
image = np.load("image.npy")
script = [x.detach().numpy() for x in torch.jit.load("model.ts")(torch.from_numpy(image))]
session = onnxruntime.InferenceSession("model.onnx")
graph = session.run(None, {session.get_inputs()[0].name: image})
np.savez("computed.npz", script_local=script[0], script_global=script[1], graph_local=graph[0], graph_global=graph[1])
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    network = ANATOMICAL_EMBEDDING.network(**ANATOMICAL_EMBEDDING.arguments)
    torch.save(network.state_dict(), path)
    return path


def test_monai_s_exports_compute_what_the_network_does_where_nothing_of_ours_is(
    weights: Path, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = np.asarray(nib.load(brain / "brain" / "image.nii.gz").dataobj, np.float32)
    image = (voxels / voxels.max())[None, None, 10:19, 3:43, 4:44]
    np.save(tmp_path / "image.npy", np.ascontiguousarray(image))
    (tmp_path / "rest").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rest"))  # onnx_export leaves a file there
    (config,) = configs(ANATOMICAL_EMBEDDING.name, "inference.json")
    words = options(
        bundle_root=ANATOMICAL_EMBEDDING.folder, ckpt_file=weights, config_file=config,
        input_shape=list(image.shape), **ANATOMICAL_EMBEDDING.arguments,
    )  # fmt: skip
    type_command("ckpt_export", "network_def", *words, "--use_trace", "True", "--filepath", f"{tmp_path}/model.ts")
    type_command("onnx_export", "network_def", *words, "--filepath", f"{tmp_path}/model.onnx")
    result = call(["-I", "-c", BARE], tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]

    network = ANATOMICAL_EMBEDDING.network(**ANATOMICAL_EMBEDDING.arguments).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        expected: dict[str, Tensor] = dict(network(torch.from_numpy(image)))
    computed = np.load(tmp_path / "computed.npz")
    for name, values in expected.items():
        assert float(values.std()) > 0.01  # else anything would be near
        for way in ("script", "graph"):
            torch.testing.assert_close(torch.from_numpy(computed[f"{way}_{name}"]), values, rtol=0, atol=1e-4)


@pytest.fixture
def served(weights: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the bundle, as it lies in a server's model folder, with tiny knobs and weights."""
    folder = tmp_path / "model" / ANATOMICAL_EMBEDDING.name
    shutil.copytree(ANATOMICAL_EMBEDDING.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    path = folder / "configs" / "train.json"
    knobs = {name: value for name, value in ANATOMICAL_EMBEDDING.tiny.items() if name != "device"}
    path.write_text(json.dumps({**read_json(path), **knobs}), encoding="utf-8")
    (folder / "models").mkdir()
    shutil.copy(weights, folder / "models")
    hook = sys.excepthook
    yield folder
    sys.excepthook = hook


class Datastore:
    """What a server's store tells a training task; what it says of labels is not asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def datalist(self) -> list[dict[str, Any]]:
        images = [self.folder / "brain" / "image.nii.gz", self.folder / "followup" / "followup.nii.gz"]
        return [{"image": str(image), "label": str(image), "id": 1} for image in images]


def test_label_s_training_goes_on_from_the_model_without_labels(served: Path, brain: Path) -> None:
    hint = "pip install --no-deps monailabel==0.8.5 (and the extra dev, which has what it imports)"
    train = pytest.importorskip("monailabel.tasks.train.bundle", reason=hint)
    before = torch.load(served / "models" / "model.pt", weights_only=True)
    request = {
        "model": ANATOMICAL_EMBEDDING.name,
        "device": "cpu",
        "max_epochs": 1,
        "val_split": 0.5,
        "pretrained": True,
    }
    train.BundleTrainTask(str(served), {})(request, Datastore(brain))
    after = torch.load(served / "models" / "model.pt", weights_only=True)
    kept = torch.load(served / "models" / "model_backup_1.pt", weights_only=True)
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert not torch.equal(after[ANATOMICAL_EMBEDDING.learns], before[ANATOMICAL_EMBEDDING.learns])
    (epoch,) = read_json(served / "eval" / "history.json")["epochs"]
    assert epoch["val_match_error_mm"] > 0
