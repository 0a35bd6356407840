# SPDX-License-Identifier: Apache-2.0
"""Inference of many scans is shared out between processes, and goes on where it was stopped."""

from __future__ import annotations

import gzip
import os
import signal
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from monai.bundle import ConfigParser

from tests.bundles.profiles import ALL_PROFILES, PROFILES, SAM_SP, Profile
from tests.bundles.runs import INFERENCE, run

RESULTS = {"anatomical_embedding": "matches/*.csv", "anatomical_registration": "registrations/*/registration.json"}
each_bundle = pytest.mark.parametrize("bundle", ALL_PROFILES.values(), ids=ALL_PROFILES)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small volumes of noise, each another one."""
    folder, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for case in "abc":
        voxels = generator.normal(100, 30, (18, 20, 3)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1, 2, 1])), folder / f"{case}.nii.gz")
    return folder


def weights_of(profile: Profile, folder: Path) -> Path:
    """Write the weights of a tiny network that has learned nothing."""
    parser = ConfigParser({**profile.inference, **profile.inference_knobs, "bundle_root": str(profile.folder)})
    torch.manual_seed(1)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    return folder / "model.pt"


def infer(profile: Profile, folder: Path, data: Path, weights: Path, *more: str, skip_done: bool = False) -> None:
    knobs = {"ckpt_path": str(weights), "skip_done": skip_done}
    run(profile.name, "inferring", (*INFERENCE, *more), folder, data, **knobs)


def results_in(folder: Path) -> dict[str, bytes]:
    """Content of every file that was written; half a file would be one, too."""
    predictions = folder / "eval" / "predictions"
    return {
        file.name: gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for file in sorted(predictions.iterdir())
        if not file.name.startswith(".tmp-")
    }


def times_in(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "eval" / "predictions").iterdir()}


def one_of_two(rank: int, name: str, folder: Path, data: Path, weights: Path, port: int) -> None:
    """What torchrun would start; forked, since a new process takes long to import torch and monai."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in places.items()})
    infer(PROFILES[name], folder, data, weights, "multi_gpu_inference.json", skip_done=True)


def infer_together(profile: Profile, folder: Path, data: Path, weights: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(one_of_two, (profile.name, folder, data, weights, port), nprocs=2, start_method="fork")


def test_two_processes_together_write_what_one_writes(profile: Profile, scans: Path, tmp_path: Path) -> None:
    weights = weights_of(profile, tmp_path)
    infer(profile, tmp_path / "alone", scans, weights)
    infer_together(profile, tmp_path / "together", scans, weights)
    expected = results_in(tmp_path / "alone")
    assert results_in(tmp_path / "together") == expected
    assert {name[0] for name in expected} == {"a", "b", "c"}


def test_two_processes_do_only_what_is_missing(scans: Path, tmp_path: Path) -> None:
    weights = weights_of(SAM_SP, tmp_path)
    infer(SAM_SP, tmp_path, scans, weights)
    before, expected = times_in(tmp_path), results_in(tmp_path)
    (tmp_path / "eval" / "predictions" / "b_prompts.json").unlink()
    infer_together(SAM_SP, tmp_path, scans, weights)
    assert results_in(tmp_path) == expected
    after = times_in(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"b.nii.gz", "b_prompts.json"}


def killed_at(number: int, folder: Path, data: Path, weights: Path) -> None:
    """Infer in this process, which is killed just before its file of that number appears."""
    written, rename = [], os.replace

    def replace(*paths: str | Path) -> None:
        written.append(paths)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_ext.files.os.replace", replace)
        infer(SAM_SP, folder, data, weights)


@pytest.mark.parametrize(("file", "whole"), [(3, {"a"}), (4, {"a"}), (5, {"a", "b"})])
def test_a_killed_run_goes_on_with_what_is_missing(file: int, whole: set[str], scans: Path, tmp_path: Path) -> None:
    weights = weights_of(SAM_SP, tmp_path)
    infer(SAM_SP, tmp_path / "whole", scans, weights)
    process = mp.get_context("fork").Process(target=killed_at, args=(file, tmp_path, scans, weights))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    before = times_in(tmp_path)
    infer(SAM_SP, tmp_path, scans, weights, skip_done=True)
    assert results_in(tmp_path) == results_in(tmp_path / "whole")
    after = times_in(tmp_path)
    assert {name[0] for name in before if not name.startswith(".") and after[name] == before[name]} == whole


@each_bundle
def test_every_bundle_skips_what_is_done_and_ends_well_with_nothing_left(
    bundle: Profile, scans: Path, brain: Path, tmp_path: Path
) -> None:
    data = brain / "pairs.json" if bundle.name in RESULTS else scans
    weights = weights_of(bundle, tmp_path)
    infer(bundle, tmp_path, data, weights)
    results = sorted((tmp_path / "eval").glob(RESULTS.get(bundle.name, "predictions/*.nii.gz")))
    assert len(results) == 3
    before = [file.stat().st_mtime_ns for file in results]
    infer(bundle, tmp_path, data, weights, skip_done=True)
    assert [file.stat().st_mtime_ns for file in results] == before
    results[1].unlink()
    infer(bundle, tmp_path, data, weights, skip_done=True)
    after = [file.stat().st_mtime_ns for file in results]
    assert [now == then for now, then in zip(after, before, strict=True)] == [True, False, True]
