# SPDX-License-Identifier: Apache-2.0
"""Weights inherit from what they were made of, however often they were trained on."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from safetensors.torch import save_file

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.mae import MAE_LICENCE
from monai_ext.networks.checkpoints.save_expert import save_expert
from monai_ext.networks.checkpoints.simclr import SIMCLR_LICENCE
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.expert_student import ExpertStudent
from monai_ext.shipping.commercial_check import check_commercial
from monai_ext.shipping.licence_entry import LicenceEntry, strictest
from monai_ext.shipping.licences import BundleLicences
from monai_ext.shipping.published_weights import PublishedWeights
from monai_ext.shipping.weights_origin import weights_origin
from tests.shipping.made_bundles import make_bundle, make_data, make_run, write_bytes, write_json

SAMORA = Path(__file__).parents[2] / "bundles" / "samora"
OPEN, CLOSED = (b"open", "Apache-2.0", "yes"), (b"closed", "CC BY-NC 4.0", "no")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "toy", free=OPEN, bound=CLOSED)


@pytest.fixture
def published(bundle: Path) -> PublishedWeights:
    return PublishedWeights.of([bundle])


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(make_data(tmp_path / "hearts", name="Hearts", licence="CC BY 4.0"))


def named(entries: list[LicenceEntry]) -> list[tuple[str, str]]:
    return [(entry.name, entry.commercial) for entry in entries]


def test_published_weights_are_known_by_their_bytes_under_any_name(tmp_path: Path, published: PublishedWeights) -> None:
    assert named(weights_origin(write_bytes(tmp_path / "renamed.pt", b"closed"), published)) == [("bound.pth", "no")]


def test_a_run_inherits_from_its_start_and_its_data(bundle: Path, published: PublishedWeights, data: str) -> None:
    write_bytes(bundle / "models" / "pretrained" / "free.pth", b"open")
    model = make_run(bundle, b"new", pretrained="models/pretrained/free.pth", dataset_dir=data, learning_rate=0.1)
    found = weights_origin(model, published)
    assert named(found) == [("free.pth", "yes"), ("Hearts", "yes")]
    assert [entry.via for entry in found] == ["eval/run.json: pretrained", "eval/run.json: dataset_dir"]


def test_a_chain_of_trainings_inherits_from_its_first_start(
    tmp_path: Path, published: PublishedWeights, data: str
) -> None:
    start = str(write_bytes(tmp_path / "bound.pth", b"closed"))
    for step in range(4):
        start = str(make_run(tmp_path / f"step{step}", b"%d" % step, pretrained=start, dataset_dir=data))
    assert ("bound.pth", "no") in named(weights_origin(Path(start), published))


def test_a_file_that_is_gone_counts_by_its_name(bundle: Path, published: PublishedWeights, data: str) -> None:
    model = make_run(bundle, b"new", pretrained="/elsewhere/bound.pth", dataset_dir=data)
    assert named(weights_origin(model, published))[0] == ("bound.pth", "no")


def test_a_name_is_not_believed_against_the_bytes(bundle: Path, published: PublishedWeights, data: str) -> None:
    write_bytes(bundle / "models" / "pretrained" / "free.pth", b"something else")
    model = make_run(bundle, b"new", pretrained="models/pretrained/free.pth", dataset_dir=data)
    assert named(weights_origin(model, published))[0] == ("free.pth", "unknown")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "no run record"),
        ({}, "no run that got so far"),
        ({"status": "failed", "best": None, "knobs": {}}, "no run that got so far"),
    ],
)
def test_weights_of_no_known_run_are_unknown(
    bundle: Path, published: PublishedWeights, record: dict | None, reason: str
) -> None:
    model = write_bytes(bundle / "models" / "model.pt", b"new")
    if record is not None:
        write_json(bundle / "eval" / "run.json", record)
    (entry,) = weights_origin(model, published)
    assert entry.commercial == "unknown"
    assert reason in entry.via


def test_a_stranger_beside_the_weights_of_a_run_inherits_nothing_of_it(
    bundle: Path, published: PublishedWeights, data: str
) -> None:
    make_run(bundle, b"new", dataset_dir=data)
    for name in ("models/pretrained/other.pth", "models/medsam.pt", "models/tasks/other.pt"):
        assert strictest(weights_origin(write_bytes(bundle / name, name.encode()), published)) == "unknown"


def test_a_run_that_started_from_its_own_result_ends_as_unknown(
    bundle: Path, published: PublishedWeights, data: str
) -> None:
    model = make_run(bundle, b"new", pretrained=str(bundle / "models" / "model.pt"), dataset_dir=data)
    assert named(weights_origin(model, published)) == [("model.pt", "unknown"), ("Hearts", "yes")]


def test_converted_weights_keep_the_licence_of_their_source(bundle: Path, published: PublishedWeights) -> None:
    model = write_bytes(bundle / "models" / "model.pt", b"converted")
    digests = {"sha256": sha256(b"converted").hexdigest(), "source_sha256": sha256(b"closed").hexdigest()}
    write_json(bundle / "models" / "model.pt.json", {"source": "x.pth", "licence": "as the source", **digests})
    assert named(weights_origin(model, published)) == [("bound.pth", "no")]
    model.write_bytes(b"trained since")
    assert named(weights_origin(model, published)) == [("model.pt", "unknown")]


def test_exported_files_are_what_they_were_exported_from(bundle: Path, published: PublishedWeights, data: str) -> None:
    make_run(bundle, b"new", pretrained="bound.pth", dataset_dir=data)
    exported = write_bytes(bundle / "models" / "model.onnx", b"exported")
    digest = {"weights_sha256": sha256(b"new").hexdigest(), "onnx": {"sha256": sha256(b"exported").hexdigest()}}
    write_json(bundle / "models" / "parity.json", digest)
    assert weights_origin(exported, published) == weights_origin(bundle / "models" / "model.pt", published)


def test_an_expert_brings_its_teachers_licence_into_what_uses_it(
    bundle: Path, published: PublishedWeights, data: str
) -> None:
    expert = bundle / "models" / "expert_patch.safetensors"
    knobs = {"dataset_dir": data, "teacher_path": "mae.pth", "pretrained": "free.pth"}
    make_run(bundle, b"", "eval/pretrain_patch", "models/expert_patch.safetensors", **knobs)
    notes = {"format": "monai_ext.expert.1", "licence": "CC BY-NC 4.0", "teacher": "a masked autoencoder"}
    save_file({"a": torch.zeros(1)}, expert, metadata=notes)
    model = make_run(bundle, b"new", pretrained="free.pth", expert_patch=str(expert), dataset_dir=data)
    found = named(weights_origin(model, published))
    assert found[:2] == [("free.pth", "yes"), ("a masked autoencoder", "no")]
    assert "unknown" not in {commercial for _, commercial in found}


@pytest.mark.parametrize("told_by_notes", [True, False])
def test_an_expert_that_learnt_from_a_masked_autoencoder_is_refused_for_commercial_use_and_named(
    told_by_notes: bool, tmp_path: Path, data: str
) -> None:
    published = PublishedWeights.of([SAMORA])
    bundle = make_bundle(tmp_path / "samora")
    network = Distillation(ExpertStudent("patch", sam_type="vit_tiny", image_size=32), nn.Identity(), nn.Identity())
    if told_by_notes:
        network.teacher.licence, network.taught_by = MAE_LICENCE, "a masked autoencoder"
    knobs = {"dataset_dir": data, "teacher_path": "/mae_pretrain_vit_large.pth", "pretrained": "sam_vit_b_01ec64.pth"}
    expert = make_run(bundle, b"", "eval/pretrain_patch", "models/expert_patch.safetensors", **knobs)
    save_expert(network, expert)
    make_run(bundle, b"new", pretrained="sam_vit_b_01ec64.pth", expert_patch=str(expert), dataset_dir=data)
    with pytest.raises(InputError) as caught:
        check_commercial([BundleLicences.of(bundle, "0.1.0", published, with_models=True)])
    told = str(caught.value)
    assert "weights mae_pretrain_vit_large.pth (CC BY-NC 4.0; commercial use no; from models/" in told
    assert ("weights a masked autoencoder (CC BY-NC 4.0" in told) == told_by_notes
    assert "sam_vit_b" not in told


def test_an_expert_that_learnt_from_simclr_is_not_refused(tmp_path: Path, data: str) -> None:
    bundle = make_bundle(tmp_path / "samora")
    knobs = {"dataset_dir": data, "teacher_path": "r50_2x_sk1.safetensors", "pretrained": "sam_vit_b_01ec64.pth"}
    expert = make_run(bundle, b"", "eval/pretrain_image", "models/expert_image.safetensors", **knobs)
    save_file({"a": torch.zeros(1)}, expert, metadata={"licence": SIMCLR_LICENCE, "teacher": "SimCLRv2"})
    check_commercial([BundleLicences.of(bundle, "0.1.0", PublishedWeights.of([SAMORA]), with_models=True)])


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ({"licence": "CC-BY-SA 4.0"}, ["yes"]),
        ({"license": "CC BY-NC 4.0"}, ["no"]),
        ({"licence": "consent of our hospital", "commercial": "yes"}, ["yes"]),
        ({}, ["unknown"]),
        ({"training": [{"image": "a", "licence": "MIT"}, {"image": "b", "licence": "CC BY-NC 4.0"}]}, ["yes", "no"]),
        ({"training": [{"image": "a", "licence": "MIT"}, {"image": "b"}]}, ["yes", "unknown"]),
    ],
)
def test_data_count_by_what_their_list_says(
    bundle: Path, published: PublishedWeights, tmp_path: Path, notes: dict, expected: list[str]
) -> None:
    model = make_run(bundle, b"new", dataset_dir=str(make_data(tmp_path / "scans", **notes)))
    assert [entry.commercial for entry in weights_origin(model, published)] == expected


def test_what_was_released_passes_its_parts_on_without_paths_of_the_machine(
    bundle: Path, published: PublishedWeights, data: str, tmp_path: Path
) -> None:
    make_run(bundle, b"new", pretrained="bound.pth", dataset_dir=data)
    licences = BundleLicences.of(bundle, "0.1.0", published, with_models=True)
    ((name, sidecar),) = licences.sidecars.items()
    assert str(tmp_path) not in sidecar.decode() + json.dumps(licences.as_record())

    other = tmp_path / "elsewhere" / "models"
    shutil.copytree(bundle / "models", other)
    (other / Path(name).name).write_bytes(sidecar)
    tuned = make_run(tmp_path / "tuned", b"tuned", pretrained=str(other / "model.pt"), dataset_dir=data)
    assert ("bound.pth", "no") in named(weights_origin(tuned, PublishedWeights.of([])))


def test_every_culprit_is_named_with_its_licence_and_its_way_in(
    bundle: Path, published: PublishedWeights, tmp_path: Path
) -> None:
    check_commercial([BundleLicences.of(bundle, "0.1.0", published)])  # code alone
    make_run(bundle, b"new", pretrained="bound.pth", dataset_dir=str(tmp_path / "secret" / "scans"))
    with pytest.raises(InputError) as caught:
        check_commercial([BundleLicences.of(bundle, "0.1.0", published, with_models=True)])
    told = str(caught.value)
    assert "2 parts may not be used commercially" in told
    assert (
        "weights bound.pth (CC BY-NC 4.0; commercial use no; from models/model.pt <- eval/run.json: pretrained)" in told
    )
    assert "data scans (unknown; commercial use unknown; from models/model.pt <- eval/run.json: dataset_dir)" in told
    assert "secret" not in told
