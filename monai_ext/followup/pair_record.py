# SPDX-License-Identifier: Apache-2.0
"""What has been matched already, so that a list of pairs can be taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from monai_ext.data.embedding_key import hash_image
from monai_ext.data.fingerprint import digest
from monai_ext.followup.pair_list import ScanPair


class PairRecord:
    """A file beside a list of pairs that says from what each result was made.

    A result counts as done if it is there and the content of both scans, of the points, and everything else that it
    depends on is what it was. Each result adds a line, since a file that is written anew for each of very many would
    take longer than the matching; of several lines about one result the last counts. A file that is missing, or a line
    that is damaged or cut off by a crash, only costs the work of doing that again.

    Args:
        path: of the record.
        settings: what all results depend on: the weights' hash, the matcher's settings.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> record = PairRecord(folder / "pairs.record.jsonl", {"mode": "nn"})
        >>> pair = ScanPair(*(folder / name for name in ("a.nii", "b.nii", "points.csv", "out.csv")))
        >>> for path in (*pair.inputs, pair.output):
        ...     _ = path.write_text("content", encoding="utf-8")
        >>> record.is_done(pair), record.add(pair), record.is_done(pair)
        (False, None, True)
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.settings = digest(sorted(settings.items()))
        self._done = _read(path)
        self._contents: dict[Path, str] = {}

    def is_done(self, pair: ScanPair) -> bool:
        """Say whether the pair's results are there and still hold.

        Raises:
            InputError: an input is missing.
        """
        state = self._state(pair)  # even if it is not needed: inputs that change later are then done again
        return self._done.get(self._name(pair)) == state and all(path.is_file() for path in pair.outputs)

    def add(self, pair: ScanPair) -> None:
        """Note that the pair's results have been written, after `is_done` had been asked."""
        name, state = self._name(pair), self._state(pair)
        self._done[name] = state
        line = json.dumps({"output": name, "state": state}, ensure_ascii=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the line before may have been cut off
            file.flush()
            os.fsync(file.fileno())

    def _name(self, pair: ScanPair) -> str:
        return str(pair.output.absolute())

    def _state(self, pair: ScanPair) -> str:
        report = "" if pair.report is None else str(pair.report.absolute())
        return digest(self.settings, [self._content(path) for path in pair.inputs], report)

    def _content(self, path: Path) -> str:
        """Return the hash of a file, which is read once in a run."""
        if path not in self._contents:
            self._contents[path] = hash_image(path)
        return self._contents[path]


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    done: dict[str, str] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            done[str(entry["output"])] = str(entry["state"])
        except (ValueError, KeyError, TypeError):
            continue
    return done
