# SPDX-License-Identifier: Apache-2.0
"""Bundles of a few bytes, with what is said of their rights."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_bundle(folder: Path, **published: tuple[bytes, str, str]) -> Path:
    """Write a bundle that names published weights: name -> content, licence, commercial use."""
    files = [
        {
            "path": f"models/pretrained/{name}.pth",
            "url": "x",
            "hash_type": "sha256",
            "hash_val": sha256(content).hexdigest(),
        }
        for name, (content, _, _) in published.items()
    ]
    weights = [
        {
            "path": f"models/pretrained/{name}.pth",
            "licence": licence,
            "commercial": commercial,
            "source": "https://x.org",
        }
        for name, (_, licence, commercial) in published.items()
    ]
    code = {"licence": "Apache-2.0", "commercial": "yes", "source": "LICENSE"}
    write_json(folder / "docs" / "licences.json", {"code": code, "weights": weights, "data": []})
    (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": files}), encoding="utf-8")
    return folder


def make_run(folder: Path, weights: bytes, place: str = "eval", file: str = "models/model.pt", **knobs: Any) -> Path:
    """Write the weights of a finished run and its record; return the file of weights."""
    write_json(folder / place / "run.json", {"status": "finished", "best": None, "knobs": knobs})
    return write_bytes(folder / file, weights)


def make_data(folder: Path, **notes: Any) -> Path:
    """Write a data list; return its folder."""
    return write_json(folder / "datalist.json", {"training": [{"image": "a.nii.gz"}], **notes}).parent
