# SPDX-License-Identifier: Apache-2.0
"""All bundles in one release: downloaded, loaded, used and trained on where nothing but the wheel is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.commands._fire import main
from tests.bundles.profiles import ALL_PROFILES, Profile
from tests.bundles.runs import call
from tests.bundles.wheel import ONLY_THE_WHEEL
from tests.commands.released import PLACE, a_wheel, served

# MONAI names GitHub in one function; everything else of the download and of loading is MONAI's own
SCRIPT = """
import json, sys
import torch
from monai.bundle import scripts
server, folder, wanted, runs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
github = scripts._get_git_release_url
scripts._get_git_release_url = lambda *a, **k: github(*a, **k).replace("https://github.com", server)
for name, (arguments, size) in wanted.items():
    network = scripts.load(
        name, version="0.1.0", source="github", repo="owner/repo/tag", bundle_dir=folder, workflow_type="inference",
        device="cpu", net_override=arguments, progress=False,
    ).eval()
    with torch.no_grad():
        network(torch.rand(size))
    total = sum(float(weight.double().sum()) for weight in network.state_dict().values())
    print("loaded", name, sys.modules[type(network).__module__].__file__, repr(total))
    for run_id, config, knobs in runs[name]:
        root = f"{folder}/{name}"
        scripts.run(
            run_id=run_id, config_file=f"{root}/configs/{config}.json", bundle_root=root, logging_file=False, **knobs
        )
"""
# to learn from, and to use the network on, in the tiny data set
DATA = {
    "anatomical_embedding": ("scans.json", "pairs.json"),
    "anatomical_registration": ("scans.json", "pairs.json"),
}
RESULTS = {"anatomical_embedding": "matches/*.csv", "anatomical_registration": "registrations/*"}
RATE = 1e-6  # so small that one epoch ends beside the weights that it began with


def with_weights(profile: Profile, folder: Path) -> float:
    """Copy the bundle, write the weights of a tiny network into it, and return their sum."""
    copy = folder / profile.name
    shutil.copytree(profile.folder, copy, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    parser = ConfigParser({**profile.inference, **profile.inference_knobs, "bundle_root": str(copy)})
    weights = parser.get_parsed_content("network_def").state_dict()
    (copy / "models").mkdir()
    torch.save(weights, copy / "models" / "model.pt")
    return sum(float(weight.double().sum()) for weight in weights.values())


def size_of(profile: Profile) -> list[int]:
    """A small input of the network."""
    metadata = json.loads((profile.folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    return [1, image["num_channels"], *[32] * len(image["spatial_shape"])]


def runs_of(profile: Profile, brain: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Use the network, then train it on for an epoch, in the bundle's own folder but for the new weights."""
    learning, used = DATA.get(profile.name, (profile.data, "brain/image.nii.gz"))
    tuning = {**profile.tiny, "dataset_dir": str(brain / learning), "max_epochs": 1, "learning_rate": RATE}
    places = {"start_from": f"{profile.name}/models/model.pt", "ckpt_dir": f"tuned/{profile.name}"}
    return [
        ("inferring", "inference", {**profile.inference_knobs, "dataset_dir": str(brain / used)}),
        ("training", "train", {**tuning, **places}),
    ]


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    """Every weight that learning changes by its rate; statistics of batches are none."""
    state = torch.load(path, weights_only=True)
    return {name: weight for name, weight in state.items() if "running_" not in name and weight.is_floating_point()}


@pytest.mark.slow
def test_every_bundle_of_a_release_is_downloaded_loaded_used_and_trained_on(
    wheel_folder: Path, brain: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundles").mkdir()
    sums = {profile.name: with_weights(profile, tmp_path / "bundles") for profile in ALL_PROFILES.values()}
    names = ",".join(str(tmp_path / "bundles" / name) for name in sums)
    words = ["--output_dir", str(tmp_path / "web" / PLACE), "--wheel", str(a_wheel(tmp_path))]
    assert main(["release", "--bundles", names, "--with_models", *words]) == 0

    alone, empty = tmp_path / "alone", tmp_path / "empty"
    shutil.copytree(wheel_folder, alone)
    (alone / "sitecustomize.py").write_text(ONLY_THE_WHEEL, encoding="utf-8")
    empty.mkdir()
    wanted = {profile.name: (dict(profile.arguments), size_of(profile)) for profile in ALL_PROFILES.values()}
    runs = {profile.name: runs_of(profile, brain) for profile in ALL_PROFILES.values()}
    with served(tmp_path / "web") as server:
        words = ["-c", SCRIPT, server, str(empty), json.dumps(wanted), json.dumps(runs)]
        result = call(words, empty, timeout=900, PYTHONPATH=str(alone))
    assert result.returncode == 0, result.stderr[-2000:]
    found = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("loaded ")]
    assert all(Path(place).is_relative_to(alone) for _, place, _ in found)
    assert {name: float(total) for name, _, total in found} == pytest.approx(sums, rel=1e-12)
    for profile in ALL_PROFILES.values():
        assert any((empty / profile.name / "eval").glob(RESULTS.get(profile.name, "predictions/*.nii.gz")))
        released = weights_in(empty / profile.name / "models" / "model.pt")
        tuned = weights_in(empty / "tuned" / profile.name / "model.pt")
        torch.testing.assert_close(tuned, released, rtol=0, atol=1e-4)
        assert not torch.equal(tuned[profile.learns], released[profile.learns])
