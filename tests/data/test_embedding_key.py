# SPDX-License-Identifier: Apache-2.0
"""What makes the name of stored embeddings, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor

from monai_ext.data.embedding_key import EmbeddingKey, hash_encoder, hash_image, hash_preprocessing
from monai_ext.errors import InputError

HASHES = """
import numpy as np, torch
from monai_ext.data.embedding_key import EmbeddingKey, hash_encoder, hash_image, hash_preprocessing
from monai_ext.transforms import ScaleScand
weights = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
result = EmbeddingKey(
    hash_image(np.arange(6).reshape(2, 3)), hash_preprocessing(ScaleScand(["image"])), hash_encoder(weights, size=8)
).digest()
"""


def test_another_process_computes_the_same_hashes() -> None:
    here: dict = {}
    exec(HASHES, here)
    command = [sys.executable, "-c", f"{HASHES}\nprint(result)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"})
    assert there.stdout.strip() == here["result"]


def test_a_moved_file_is_the_same_image_and_a_changed_byte_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"voxels")
    before = hash_image(tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "b.nii")
    assert hash_image(str(tmp_path / "b.nii")) == before
    (tmp_path / "b.nii").write_bytes(b"voxelz")
    assert hash_image(tmp_path / "b.nii") != before


def test_the_voxels_beside_a_header_belong_to_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = other.raw\n", encoding="utf-8")
    (tmp_path / "other.raw").write_bytes(b"voxels")
    before = hash_image(tmp_path / "a.mhd")
    (tmp_path / "other.raw").write_bytes(b"voxelz")
    assert hash_image(tmp_path / "a.mhd") != before


def test_a_header_without_its_voxels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nhdr").write_text("NRRD0004\ndata file: slice%03d.raw 1 9 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.nhdr: its voxels are in 'slice%03d\.raw 1 9 1'"):
        hash_image(tmp_path / "a.nhdr")


def test_the_order_of_modalities_counts_and_that_of_dicom_files_does_not(tmp_path: Path) -> None:
    for name, text in (("1.dcm", b"one"), ("2.dcm", b"two")):
        (tmp_path / "series").mkdir(exist_ok=True)
        (tmp_path / "series" / name).write_bytes(text)
    one, two = tmp_path / "series" / "1.dcm", tmp_path / "series" / "2.dcm"
    assert hash_image([one, two]) != hash_image([two, one])
    before = hash_image(tmp_path / "series")
    one.rename(tmp_path / "series" / "3.dcm")
    assert hash_image(tmp_path / "series") == before


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.nii: no such file"):
        hash_image(tmp_path / "gone.nii")


def test_values_type_and_shape_of_voxels_count_and_their_container_does_not() -> None:
    voxels = np.arange(6, dtype=np.float32)
    assert hash_image(voxels) == hash_image(torch.from_numpy(voxels)) == hash_image(MetaTensor(voxels))
    others = {hash_image(voxels + 1), hash_image(voxels.astype(np.int32)), hash_image(voxels.reshape(2, 3))}
    assert len(others | {hash_image(voxels)}) == 4


def test_each_weight_buffer_and_setting_of_an_encoder_counts() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    hashes = {hash_encoder(net), hash_encoder(net, image_size=64), hash_encoder(net, image_size=128)}
    net[1].running_mean += 1
    hashes.add(hash_encoder(net))
    net[0].weight.data[0, 0] += 1
    hashes.add(hash_encoder(net.state_dict()))
    assert len(hashes) == 5


def test_a_key_changes_with_each_part_but_not_with_the_name_of_the_case() -> None:
    key = EmbeddingKey("i", "p", "e", case="one")
    others = [EmbeddingKey("j", "p", "e"), EmbeddingKey("i", "q", "e"), EmbeddingKey("i", "p", "f")]
    others.append(EmbeddingKey("i", "p", "e", plane="coronal"))
    assert len({k.digest() for k in [key, *others]}) == 5
    assert EmbeddingKey("i", "p", "e", case="two").digest() == key.digest()
    assert hash_preprocessing({"lower": 0}) != hash_preprocessing({"lower": 1})
    with pytest.raises(ValueError, match=r"plane must be one of"):
        EmbeddingKey("i", "p", "e", plane="oblique")
