# SPDX-License-Identifier: Apache-2.0
"""Exported files compute what the network computes, and stand alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.commands._fire import main
from monai_ext.commands.export import FORMATS
from monai_ext.shipping import parity
from monai_ext.shipping.bundle_network import load_network, read_inference
from monai_ext.shipping.export_files import write_onnx, write_torchscript
from monai_ext.shipping.sample_image import sample_input

ALONE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("monai_ext", "monai", "toy", "sam2", "sam2_unet"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np
image = np.load(sys.argv[1])
if sys.argv[2].endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[2])
    logits = session.run(None, {"image": image})[0]
else:
    import torch
    logits = torch.jit.load(sys.argv[2])(torch.from_numpy(image)).detach().numpy()
np.save(sys.argv[3], logits)
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_export_writes_both_files_and_their_parity(
    toy: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", str(toy), "--image", str(picture)]) == 0
    record = json.loads((toy / "models" / "parity.json").read_text(encoding="utf-8"))
    assert record["image"].startswith("picture.png (1x1x")
    assert record["bundle"] == "toy 0.1.0"
    for kind in ("torchscript", "onnx"):
        assert record[kind]["max_abs_difference"] <= record["tolerance"] == 1e-4
        assert record[kind]["dice"] == 1.0
        assert record[kind]["free_axes"] == ["batch", "height", "width"]
    assert record["onnx"]["opset"] >= 18
    assert not superfluous_nodes(toy / "models" / "model.onnx")
    assert capsys.readouterr().out.count(" ok: ") == 2

    # a size and a batch that the export did not see, in a process that can import nothing of ours
    network = load_network(read_inference(toy), toy / "models" / "model.pt")
    images = torch.rand(3, 1, 41, 23)
    np.save(tmp_path / "images.npy", images.numpy())
    for name in ("model.ts", "model.onnx"):
        command = [sys.executable, "-I", "-c", ALONE, "images.npy", str(toy / "models" / name), "logits.npy"]
        subprocess.run(command, check=True, cwd=tmp_path)
        logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
        torch.testing.assert_close(logits, network(images).detach(), rtol=0, atol=1e-4)


def superfluous_nodes(path: Path) -> list[str]:
    """What the graph computes from constants alone, or twice."""
    import onnx

    graph = onnx.load(str(path)).graph
    constants = {value.name for value in graph.initializer}
    fixed = [node.name for node in graph.node if set(node.input) <= constants]
    told = [f"{node.op_type} {list(node.input)} {list(node.attribute)}" for node in graph.node]
    return fixed + [text for text in set(told) if told.count(text) > 1]


def test_torchscript_alone_needs_no_package_of_onnx(
    toy: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    assert main(["export", str(toy), "--image", str(picture), "--formats", "torchscript"]) == 0
    assert sorted(path.name for path in (toy / "models").iterdir()) == ["model.pt", "model.ts", "parity.json"]
    record = json.loads((toy / "models" / "parity.json").read_text(encoding="utf-8"))
    assert [kind for kind in FORMATS if kind in record] == ["torchscript"]
    assert capsys.readouterr().out.count(" ok: ") == 1


def test_a_volume_gives_the_slice_of_highest_contrast(toy: Path, tmp_path: Path) -> None:
    volume = np.zeros((12, 14, 9), dtype=np.float32)
    volume[3:8, 4:9, 6] = 100.0
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    parser = read_inference(toy)
    network = load_network(parser, toy / "models" / "model.pt")
    image, text = sample_input(parser, network, tmp_path / "volume.nii.gz")
    assert image.shape[:2] == (1, 1)
    assert float(image.sum()) == pytest.approx(25.0)
    assert "volume.nii.gz" in text
    assert "highest contrast" in text


def test_without_any_image_the_record_says_that_it_was_noise(toy: Path) -> None:
    parser = read_inference(toy)
    image, text = sample_input(parser, load_network(parser, toy / "models" / "model.pt"), None)
    assert image.shape == (1, 1, 16, 16)
    assert text.startswith("random values")


def test_a_difference_is_a_failure_that_keeps_the_files(
    toy: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    honest = parity.run_torchscript
    monkeypatch.setattr(parity, "run_torchscript", lambda path, image: honest(path, image) + 1e-3)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(toy), "--image", str(picture)])
    assert stop.value.code == 1
    assert "model.ts    FAILED" in capsys.readouterr().out
    record = json.loads((toy / "models" / "parity.json").read_text(encoding="utf-8"))
    assert not record["torchscript"]["passed"]
    assert record["onnx"]["passed"]
    assert (toy / "models" / "model.ts").is_file()


def test_not_a_number_never_passes() -> None:
    assert not float("nan") <= 1e-4  # what parity_of relies on
    assert parity.label_dice(torch.tensor([0, 0]), torch.tensor([0, 0])) == 1.0
    assert parity.label_dice(torch.tensor([1, 2]), torch.tensor([2, 1])) == 0.0


def test_a_network_without_image_size_refuses_other_sizes(toy: Path, tmp_path: Path) -> None:
    network = load_network(read_inference(toy, knobs={"image_size": None}), toy / "models" / "model.pt")
    network.merge_lora()
    image = torch.rand(1, 1, 16, 20)
    assert write_torchscript(network, image, tmp_path / "one.ts") == ["batch"]
    assert write_onnx(network, image, tmp_path / "one.onnx") == ["batch"]
    for run, name in ((parity.run_torchscript, "one.ts"), (parity.run_onnx, "one.onnx")):
        torch.testing.assert_close(run(tmp_path / name, image.repeat(3, 1, 1, 1))[2:], network(image).detach())
        with pytest.raises(Exception, match="16"):
            run(tmp_path / name, torch.rand(1, 1, 18, 20))


class Sizes(torch.nn.Module):
    """Says that any size will do; whether it is true is the caller's choice."""

    def __init__(self, exports_any_size: bool, honest: bool) -> None:
        super().__init__()
        self.image_size = 8
        self.exports_any_size = exports_any_size
        self.honest = honest

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        side = image.shape[2] if self.honest else int(image.shape[2])
        small = torch.nn.functional.interpolate(image, size=(self.image_size, self.image_size), mode="bilinear")
        return torch.nn.functional.interpolate(small, size=(side, image.shape[3]), mode="bilinear")


@pytest.mark.parametrize(
    ("says", "honest", "axes"),
    [(True, True, ["batch", "height", "width"]), (False, True, ["batch"]), (True, False, ["batch"])],
)
def test_sizes_are_free_if_the_network_says_so_and_it_is_true(
    tmp_path: Path, says: bool, honest: bool, axes: list[str]
) -> None:
    network, image = Sizes(says, honest).eval(), torch.rand(1, 1, 20, 30)
    assert write_torchscript(network, image, tmp_path / "sizes.ts") == axes
    torch.testing.assert_close(parity.run_torchscript(tmp_path / "sizes.ts", image), network(image))


def test_a_file_that_is_wrong_at_another_size_fails(tmp_path: Path) -> None:
    network = Sizes(True, True).eval()
    first, second = torch.rand(1, 1, 20, 30), torch.rand(1, 1, 9, 30)
    write_torchscript(network, first, tmp_path / "sizes.ts")
    right = parity.parity_of(tmp_path / "sizes.ts", first, network(first), 1e-4, (second, network(second)))
    wrong = parity.parity_of(tmp_path / "sizes.ts", first, network(first), 1e-4, (second, network(second) + 1e-3))
    assert (right["passed"], wrong["passed"]) == (True, False)
    assert right["other_size"] == "1x1x9x30"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ckpt", "nowhere.pt"], "nowhere.pt: there are no weights to export"),
        (["--image", "nowhere.png"], "nowhere.png: there is no such image"),
        (["--ckpt", "other.pt"], "does not fit this network"),
        (["--image_sise", "8"], "image_sise: is no knob"),
        (["--config_file", "nowhere.json"], "nowhere.json: there is no such config"),
        (["--plain_image_size", "1024"], "plain_image_size: ToyNet does not stand on Segment Anything"),
        (["--formats", "plain_sam"], "plain_sam: ToyNet does not stand on Segment Anything"),
        (["--formats", "torchscript,onxx"], "'onxx' is none of torchscript, onnx, plain_sam"),
        (["--formats", "onnx", "--plain_image_size", "1024"], "plain_image_size: is for plain_sam"),
    ],
)
def test_wrong_input_is_one_line(
    toy: Path,
    tmp_path: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.save({"head.weight": torch.rand(2, 2)}, tmp_path / "other.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "toy", *words]) == 1
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_weights_beyond_the_limit_of_one_file_lie_beside_it(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai_ext.shipping import export_files

    network = load_network(read_inference(toy), toy / "models" / "model.pt")
    monkeypatch.setattr(export_files, "PROTOBUF_LIMIT", 10)
    image = torch.rand(1, 1, 20, 20)
    write_onnx(network, image, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size > 0
    torch.testing.assert_close(parity.run_onnx(tmp_path / "big.onnx", image), network(image).detach())


def test_knobs_and_an_override_change_the_network(toy: Path) -> None:
    (toy / "configs" / "demo.json").write_text('{"image_size": 8}', encoding="utf-8")
    assert load_network(read_inference(toy, override="demo.json"), toy / "models" / "model.pt").image_size == 8
    parser = read_inference(toy, {"image_size": 4}, {"image_size": 12}, "demo.json")
    assert load_network(parser, toy / "models" / "model.pt").image_size == 12


@pytest.mark.slow
def test_sam2_unet_with_lora_exports_on_a_volume(tmp_path: Path) -> None:
    from sam2_unet.network import SAM2UNet

    from monai_ext.commands._bundle import find_bundle

    network = SAM2UNet(in_channels=1, num_classes=2, backbone="nano", tuning="lora", decoder_channels=8)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    torch.save(network.state_dict(), tmp_path / "lora.pt")
    volume = np.random.default_rng(0).random((40, 30, 5), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "volume.nii.gz")
    words = ["--ckpt", str(tmp_path / "lora.pt"), "--image", str(tmp_path / "volume.nii.gz"), "--image_size", "64"]
    words += ["--output_dir", str(tmp_path / "out"), "--formats", "torchscript"]
    assert main(["export", str(find_bundle("sam2_unet")), *words]) == 0
    record = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert record["torchscript"]["passed"]
    assert record["torchscript"]["free_axes"] == ["batch", "height", "width"]
    names = {name for name, _ in torch.jit.load(tmp_path / "out" / "model.ts").named_parameters()}
    assert not any("lora_" in name for name in names)
