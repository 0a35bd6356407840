# SPDX-License-Identifier: Apache-2.0
"""What a run's record says of the files that its settings name."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from ignite.engine import Engine, Events

from monai_ext.handlers._provenance import named_files
from tests.handlers.test_run_record import read, trainer_of


def test_files_that_settings_name_are_known_by_their_contents_at_the_start(tmp_path: Path) -> None:
    weights, cases = tmp_path / "start.pt", tmp_path / "cases.json"
    weights.write_bytes(b"weights")
    cases.write_text("{}", encoding="utf-8")
    named = {"pretrained": str(weights), "lists": [cases, "no such file"], "folder": str(tmp_path), "text": "a\0b"}
    trainer, _ = trainer_of(tmp_path / "out", knobs=named)

    @trainer.on(Events.EPOCH_COMPLETED(once=1))
    def overwrite(engine: Engine) -> None:
        weights.write_bytes(b"what training made")

    trainer.run()
    assert read(tmp_path / "out", "run.json")["files"] == {
        str(weights): {"knob": "pretrained", "bytes": 7, "sha256": sha256(b"weights").hexdigest()},
        str(cases): {"knob": "lists", "bytes": 2, "sha256": sha256(b"{}").hexdigest()},
    }


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    assert named_files({"folder": str(tmp_path), "text": "a\0b", "number": 3, "long": "x" * 10_000, "none": None}) == {}
