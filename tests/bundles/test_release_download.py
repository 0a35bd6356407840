# SPDX-License-Identifier: Apache-2.0
"""All bundles in one release: MONAI downloads and loads them where nothing but the wheel is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
server, folder, wanted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
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
"""


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


@pytest.mark.slow
def test_every_bundle_is_downloaded_from_a_release_and_loaded(wheel_folder: Path, tmp_path: Path) -> None:
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
    with served(tmp_path / "web") as server:
        words = ["-c", SCRIPT, server, str(empty), json.dumps(wanted)]
        result = call(words, empty, timeout=900, PYTHONPATH=str(alone))
    assert result.returncode == 0, result.stderr[-2000:]
    found = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("loaded ")]
    assert all(Path(place).is_relative_to(alone) for _, place, _ in found)
    assert {name: float(total) for name, _, total in found} == pytest.approx(sums, rel=1e-12)
