# SPDX-License-Identifier: Apache-2.0
"""The command embed: estimate first, the same bytes after any number of kills, and what training and inference find."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from monai.bundle import ConfigParser

from monai_ext.commands._fire import main
from monai_ext.data import EmbeddedSliceDataset, ScanDataset, load_datalist
from monai_ext.data.embedding_store import EmbeddingStore
from monai_ext.inferers import PromptedSliceInferer
from tests.data.toy_encoder import ToyEncoder, write_scan

READING = {"_target_": "monai_ext.transforms.LoadScand", "keys": ["image", "label"]}
TRAIN = {
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/data'",
    "cache_dir": "$@bundle_root + '/cache'",
    "embedding_dir": "$@bundle_root + '/embeddings'",
    "embedding_precision": "float16",
    "size_budget": None,
    "pretrained": None,
    "seed": 0,
    "plane": "axial",
    "slice_context": 0,
    "val_fraction": 0.2,
    "inference_batch_size": 2,
    "amp": False,
    "frozen": True,
    "pause": 0.0,
    "offset": 0.0,
    "device": "$torch.device('cpu')",
    "network_def": {
        "_target_": "tests.data.toy_encoder.ToyEncoder",
        "frozen": "@frozen",
        "pause": "@pause",
        "offset": "@offset",
        "batch_effect": 0.1,
    },
    "network": "$@network_def.to(@device)",
    "train": {
        "reading": {"_target_": "Compose", "transforms": [READING]},
        "dataset": {
            "_target_": "monai_ext.data.EmbeddedSliceDataset",
            "data": {
                "_target_": "monai_ext.data.load_datalist",
                "dataset_dir": "@dataset_dir",
                "section": "training",
                "val_fraction": "@val_fraction",
                "seed": "@seed",
            },
            "reading": "@train#reading",
            "cache_dir": "@cache_dir",
            "network": "@network_def",
            "embedding_cache": "disk",
            "embedding_dir": "@embedding_dir",
            "embedding_batch_size": "@inference_batch_size",
        },
    },
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with the part of train.json that the command reads, and a data set of three scans, 12 slices."""
    root = tmp_path / "toy"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text('{"version": "0.1.0"}', encoding="utf-8")
    (root / "configs" / "train.json").write_text(json.dumps(TRAIN), encoding="utf-8")
    for seed, case in enumerate("abc"):
        write_scan(root / "data", case, slices=3 + seed, seed=seed)
    return root


def run(bundle: Path, *words: str) -> int:
    return main(["embed", "--bundle_root", str(bundle), *words])


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder of embeddings but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def whole(bundle: Path) -> dict[str, bytes]:
    """What one undisturbed run writes."""
    folder = bundle.parent / "whole"
    assert run(bundle, "--embedding_dir", str(folder)) == 0
    return files(folder)


def test_it_tells_what_it_will_do_does_it_and_says_so(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    folder = bundle / "embeddings"
    assert run(bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "scans: training 2, validation 1, test 1; 3 different ones",
        "no weights given (--pretrained): those of ToyEncoder are drawn, as in training without",
        "encoder: ToyEncoder on cpu",
        f"{folder}: 0 volumes are there, 3 to compute",
    ]
    assert re.fullmatch(r"estimate: 12 slices, 0\.0 MB \([\d.]+ GB free\) in float16", lines[4])
    assert re.fullmatch(r"estimate: [\d.]+ s", lines[5])
    done = r"3 volumes, 12 slices: 0 were there, 3 computed in [\d.]+ s; .*/embeddings holds 0\.0 MB"
    assert re.fullmatch(done, lines[6])
    assert len(files(folder)) == 3
    assert run(bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == f"{folder}: 3 volumes are there, 0 to compute"
    assert lines[4].startswith("3 volumes, 12 slices: 3 were there, 0 computed in ")


def test_a_dry_run_estimates_and_writes_nothing(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle, "--dry_run", "--sections", "training", "--pause", "0.05") == 0
    shown = capsys.readouterr().out
    seconds = re.search(r"estimate: ([\d.]+) s$", shown, re.MULTILINE)
    assert seconds is not None
    assert 0.05 * 4 <= float(seconds[1]) < 2  # a pause for each batch of two, of at least seven slices
    assert "to compute" in shown.splitlines()[-3]
    assert not (bundle / "embeddings").exists() or files(bundle / "embeddings") == {}


def test_a_config_on_top_is_what_counts(bundle: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture) -> None:
    (bundle / "configs" / "recipe.json").write_text('{"plane": "coronal"}', encoding="utf-8")
    assert run(bundle, "--config", "recipe.json") == 0
    by_config = files(bundle / "embeddings")
    assert run(bundle, "--plane", "coronal", "--embedding_dir", str(bundle / "by_knob")) == 0
    assert by_config == files(bundle / "by_knob")
    assert not set(by_config) & set(whole)
    assert run(bundle, "--config", "none.json") == 1
    assert "none.json: there is no such config" in capsys.readouterr().err


def test_training_finds_what_the_command_has_computed(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle) == 0
    parser = ConfigParser(json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8")))
    parser["bundle_root"] = str(bundle)
    torch.manual_seed(0)  # as training does: the encoder is drawn
    network = parser.get_parsed_content("network_def")
    items = parser.get_parsed_content("train#dataset")
    assert isinstance(items, EmbeddedSliceDataset)
    items.prepare()
    assert items[0]["image"].shape == (9, 4, 4)
    assert network.encoded == []


def test_inference_finds_what_the_command_has_computed(bundle: Path) -> None:
    torch.manual_seed(5)
    network = ToyEncoder(batch_effect=0.1).eval()
    torch.save(network.state_dict(), bundle / "sam.pt")
    knobs = ["--pretrained", str(bundle / "sam.pt"), "--plane", "coronal", "--embedding_precision", "float32"]
    assert run(bundle, *knobs) == 0
    parser = ConfigParser(TRAIN)
    reading = parser.get_parsed_content("train#reading")
    for item in ScanDataset(load_datalist(bundle / "data", "test"), reading):
        image = item["image"][None]
        settings: dict[str, Any] = {"plane": "coronal", "batch_size": 2, "output": "probabilities"}
        found = PromptedSliceInferer(**settings, embedding_dir=str(bundle / "embeddings"))(image, network)
        assert network.encoded == []
        plain = PromptedSliceInferer(**settings)(image, network)
        assert torch.equal(found.as_tensor(), plain.as_tensor())


def test_weights_of_the_whole_network_are_taken_too(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(ToyEncoder().state_dict(), bundle / "model.pt")
    assert run(bundle, "--pretrained", str(bundle / "model.pt")) == 0
    assert run(bundle, "--ckpt_path", str(bundle / "model.pt")) == 0
    shown = capsys.readouterr().out
    assert "encoder: ToyEncoder on cpu, " in shown
    assert "3 were there, 0 computed" in shown


def test_a_changed_scan_and_a_changed_encoder_are_named_and_computed(
    bundle: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(bundle) == 0
    write_scan(bundle / "data", "b", slices=4, seed=9)
    assert run(bundle) == 0
    shown = capsys.readouterr().out
    assert "note: stored embeddings of b are of another image; they are computed anew" in shown
    assert "2 were there, 1 computed" in shown
    assert run(bundle, "--offset", "0.5") == 0
    shown = capsys.readouterr().out
    assert re.search(r"note: stored embeddings of \w, \w, \w are of another encoder", shown)
    assert "0 were there, 3 computed" in shown


def child(words: list[str], environment: dict[str, str]) -> None:
    """The command in a process of its own, quickly: forked, since Python takes long to import torch."""
    os.environ.update(environment)
    raise SystemExit(main(words))


def started(bundle: Path, *words: str, environment: dict[str, str] | None = None) -> mp.Process:
    arguments = ["embed", "--bundle_root", str(bundle), *words]
    process = mp.get_context("fork").Process(target=child, args=(arguments, environment or {}))
    process.start()
    return process


def until(done: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.002)


def written(folder: Path) -> list[tuple[str, int]]:
    paths = [path for pattern in ("*.part", "*.safetensors") for path in sorted(folder.glob(pattern))]
    return [(path.name, path.stat().st_mtime_ns) for path in paths]


def test_killed_at_random_points_it_ends_with_the_bytes_of_one_run(bundle: Path, whole: dict[str, bytes]) -> None:
    folder, ends = bundle / "embeddings", []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        before = written(folder)
        process = started(bundle, "--pause", "0.1")  # seven batches in all
        until(lambda before=before, process=process: written(folder) != before or not process.is_alive())
        time.sleep(0.1 * float(torch.rand(1, generator=generator)))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        ends.append(process.exitcode)
        assert EmbeddingStore(folder).verify() == []
    assert ends[:2] == [-signal.SIGKILL] * 2
    assert run(bundle) == 0
    assert files(folder) == whole


def test_torchrun_s_processes_and_a_second_command_write_what_one_would(
    bundle: Path, whole: dict[str, bytes], capfd: pytest.CaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pause = ["--pause", "0.03"]
    processes = [started(bundle, *pause, environment={**meeting, "RANK": str(rank)}) for rank in range(2)]
    processes.append(started(bundle, *pause))
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert files(bundle / "embeddings") == whole
    shown = capfd.readouterr().out
    assert len(re.findall(r"^estimate: [\d.]+ s with 2 processes$", shown, re.MULTILINE)) <= 1
    assert shown.count("3 volumes, 12 slices: ") == 2  # one line of the two, one of the other


def test_a_damaged_file_is_named_and_made_anew_on_request(
    bundle: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture
) -> None:
    assert run(bundle) == 0
    path = sorted((bundle / "embeddings").glob("*.safetensors"))[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert run(bundle) == 0
    assert "damaged: " not in capsys.readouterr().out  # which takes a while, so only on request
    assert run(bundle, "--check") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"damaged: {re.escape(str(path))}: slice \d differs from what was written", shown)
    assert "2 were there, 1 computed" in shown
    assert files(bundle / "embeddings") == whole


def test_a_full_disk_is_one_line_and_leaves_no_broken_entry(
    bundle: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from monai_ext.data import embedding_writer

    real, count = embedding_writer.write_at, 0

    def filling(file: Any, position: int, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(28, "No space left on device")
        real(file, position, content)

    with monkeypatch.context() as patch:
        patch.setattr(embedding_writer, "write_at", filling)
        assert run(bundle) == 1
    assert re.fullmatch(r"error: \S+: the disk is full, .* make room and start again, .*\n", capsys.readouterr().err)
    assert EmbeddingStore(bundle / "embeddings").verify() == []
    assert run(bundle) == 0
    assert files(bundle / "embeddings") == whole


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sections", "training,tset"], "--sections training,tset: must be some of training,validation,test"),
        (["--dataset_dir", "nowhere"], "nowhere: no such file or folder"),
        (["--frozen", "False"], "that of ToyEncoder is trained; set embedding_cache to none, or tuning to frozen"),
        (["--ckpt_path", "nowhere.pt"], "nowhere.pt: there are no weights"),
        (["--embeding_dir", "x"], "embeding_dir: is no knob of"),
        (["--size_budget", "100"], "take 0.0 MB, and 0.0 MB of size_budget 0.0 MB are used; raise it"),
        (["--embedding_precision", "int8"], "embedding_precision must be float16 or float32, got 'int8'"),
    ],
)
def test_wrong_input_is_one_line(bundle: Path, words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle, *words) == 1
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_a_bundle_that_does_not_train_slices_is_named(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    (bundle / "configs" / "train.json").write_text('{"seed": 0}', encoding="utf-8")
    assert run(bundle) == 1
    assert "train.json: train#dataset#data must have a 'section'" in capsys.readouterr().err
    (bundle / "configs" / "train.json").unlink()
    assert run(bundle) == 1
    assert "train.json: there is no such config" in capsys.readouterr().err
    assert main(["embed"]) == 1
    assert "name the bundle" in capsys.readouterr().err
