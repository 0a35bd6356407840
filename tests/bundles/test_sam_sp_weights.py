# SPDX-License-Identifier: Apache-2.0
"""SAM-SP's weights: from Segment Anything, and back to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from sam_sp.network import SAMSP
from torch import Tensor

from monai_ext.commands._fire import main
from monai_ext.networks.nets.sam import build_plain_sam
from monai_ext.shipping.plain_sam import write_plain_sam
from tests.bundles.profiles import SAM_SP, Profile
from tests.bundles.runs import TRAIN, options, run

NAME = SAM_SP.name


def test_training_starts_from_converted_weights_of_segment_anything(brain: Path, tmp_path: Path) -> None:
    published = build_plain_sam("vit_tiny", 64).state_dict()
    torch.save(published, tmp_path / "sam_vit_tiny.pth")
    words = options(source=tmp_path / "sam_vit_tiny.pth", output=tmp_path / "sam.pt")
    assert main(["convert", str(SAM_SP.folder), *words]) == 0
    pretrained = str(tmp_path / "sam.pt")
    run(NAME, "training", TRAIN, tmp_path, brain / SAM_SP.data, pretrained=pretrained, warmup_steps=0)
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    encoder = {name: weight for name, weight in published.items() if name.startswith("image_encoder.")}
    base = {name.replace(".attn.qkv.base.", ".attn.qkv."): weight for name, weight in weights.items()}
    assert encoder
    assert all(torch.equal(base[name], weight) for name, weight in encoder.items())
    decoder = {name for name in published if name.startswith("mask_decoder.")}
    assert any(not torch.equal(weights[name], published[name]) for name in decoder)
    near = [float((weights[name] - published[name]).abs().max()) for name in decoder]
    assert max(near) < 0.05  # four small steps away from where they began


def real_slice(scan: Path, side: int) -> Tensor:
    volume = torch.from_numpy(np.asarray(nib.load(scan).dataobj, np.float32))
    middle = volume[None, None, :, :, volume.shape[2] // 2] / volume.max()
    return F.interpolate(middle, (side, side), mode="bilinear").clamp(0, 1)


def test_the_exported_weights_make_plain_segment_anything_do_the_same(
    run_of: Callable[[Profile], Path], scan: Path, tmp_path: Path
) -> None:
    network = SAMSP(**SAM_SP.arguments).eval()
    network.load_state_dict(torch.load(run_of(SAM_SP) / "models" / "model.pt", weights_only=True))
    assert write_plain_sam(network, tmp_path / "plain_sam.pth", 1e-4)["passed"]  # as `python -m monai_ext export` does
    plain = build_plain_sam("vit_tiny", 64).eval()  # all of it from the package segment-anything
    plain.load_state_dict(torch.load(tmp_path / "plain_sam.pth", weights_only=True), strict=True)
    image = real_slice(scan, 64)  # the network's own size, so that nothing is resized
    with torch.no_grad():
        ours = network.segment(image)
        request = {"image": 255 * image[0].expand(3, -1, -1), "original_size": (64, 64)}
        (first,) = plain([request], multimask_output=False)
        (second,) = plain([{**request, "boxes": ours.boxes}], multimask_output=False)
    assert ours.prompts == ["self"]
    assert 0 < int(first["masks"].sum()) < 64 * 64  # else any two would agree
    rows, columns = torch.nonzero(first["masks"][0, 0], as_tuple=True)
    expected = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
    torch.testing.assert_close(ours.boxes[0], expected, atol=1e-4, rtol=0)
    assert torch.equal(first["masks"], ours.first_logits > 0)
    assert torch.equal(second["masks"], ours.logits > 0)
