# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext match`: points of one scan found again in another."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ext.commands._bundle import find_bundle
from monai_ext.errors import InputError, find_input_error, message_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from monai_ext.followup.pair_list import ScanPair
    from monai_ext.shipping.bundle_matching import BundleMatching

    Match = Callable[[BundleMatching, ScanPair], str]


def match(
    fixed: str | None = None,
    moving: str | None = None,
    points: str | None = None,
    output: str | None = None,
    pairs: str | None = None,
    report: str | None = None,
    space: str | None = None,
    output_space: str | None = None,
    window: str | None = None,
    bundle_root: str = "anatomical_embedding",
    ckpt_path: str | None = None,
    untrained: bool = False,
    mode: str | None = None,
    embedding_dir: str | None = None,
    memory_mb: float | None = None,
    keep_mb: float = 2000.0,
    **knobs: object,
) -> None:
    """Find in one scan what points of another show; world mm in and out.

    Each point comes back with its place in the moving scan, a score, how far away the match leads back, and whether
    it was accepted. Many pairs are given as a CSV with the columns fixed, moving, points, output and maybe report,
    paths relative to that file: each scan is embedded once, pairs that are done are skipped, and one that fails does
    not stop the others.

    Args:
        fixed: scan in which the points are.
        moving: scan in which to look for them.
        points: .csv (point, x_ras_mm, y_ras_mm, z_ras_mm; or lps; a table of both scans gives its fixed_ or baseline_
            columns), or 3D Slicer's .fcsv or .mrk.json.
        output: the file to write: .csv, .fcsv or .mrk.json.
        pairs: CSV file of many pairs, instead of these four.
        report: HTML page to write, with both scans side by side at each point.
        space: RAS or LPS, for a CSV of points with plain columns x, y, z.
        output_space: RAS or LPS, of the output. Default: space, else RAS.
        window: intensities that the page shows as black and white, as in -160,240.
        bundle_root: bundle, by name or path.
        ckpt_path: weights of the network. Default: models/model.pt of the bundle.
        untrained: go on without weights, for a try; all results say so.
        mode: nn, mutual or fixed_point.
        embedding_dir: folder in which embeddings are kept for the next time.
        memory_mb: MB that embedding a scan may take; larger scans are cut into tiles.
        keep_mb: MB of embeddings to keep in memory between pairs.
        knobs: top-level entries of inference.json to change, as for `monai.bundle run`.

    Example:
        python -m monai_ext match --fixed a.nii.gz --moving b.nii.gz --points points.csv --output found.csv
    """
    single = {"fixed": fixed, "moving": moving, "points": points, "output": output}
    listed = _listed(single, pairs, report)
    bundle = find_bundle(bundle_root)

    from monai_ext.shipping.bundle_matching import BundleMatching

    given = {"mode": mode, "embedding_dir": embedding_dir, "memory_mb": memory_mb}
    chosen = {**{name: value for name, value in given.items() if value is not None}, **knobs}
    weights = None if ckpt_path is None else Path(ckpt_path)
    run = _Run(space, output_space, window)
    matching = BundleMatching(bundle, weights, chosen, untrained, keep_mb)
    if matching.note:
        print(f"note: {matching.note}; what comes out is a try and means nothing")
    if pairs is None:
        print(run(matching, listed[0]))
    else:
        _match_all(matching, listed, Path(pairs), run)


def _listed(single: dict[str, str | None], pairs: str | None, report: str | None) -> list[ScanPair]:
    """Return the pairs, checked against overwriting anything."""
    from monai_ext.followup.pair_list import ScanPair, check_outputs, read_pair_list

    given = {name: Path(value) for name, value in single.items() if value is not None}
    if pairs is not None:
        if given or report is not None:
            raise InputError("match: --pairs names scans, points and outputs itself; leave the others out.")
        return read_pair_list(pairs)
    missing = [f"--{name}" for name in single if name not in given]
    if missing:
        raise InputError(f"match: {', '.join(missing)} is missing; or give many pairs by --pairs FILE.")
    pair = ScanPair(**given, report=None if report is None else Path(report))
    check_outputs([pair])
    return [pair]


class _Run:
    """Matches one pair and writes what it found."""

    def __init__(self, space: str | None, output_space: str | None, window: str | None) -> None:
        from monai_ext.report.paint import read_window
        from monai_ext.spaces import check_space

        self.space = None if space is None else check_space(space)
        self.output_space = check_space(output_space or space or "RAS")
        self.window = None if window is None else read_window(window)

    def __call__(self, matching: BundleMatching, pair: ScanPair) -> str:
        """Write the results of a pair and return a line about them."""
        from monai_ext.data.pair_prefixes import read_fixed_points
        from monai_ext.files import atomic_write
        from monai_ext.followup.lesion_list import require_volume
        from monai_ext.followup.match_page import match_page
        from monai_ext.followup.match_table import write_matches

        start = time.perf_counter()
        points = require_volume(read_fixed_points(pair.points, self.space))
        matched = matching.match(pair.fixed, pair.moving, points.points)
        if pair.report is not None:  # first: where the output is, all is
            scans = (pair.fixed, pair.moving)
            page = match_page(scans, points, matched, matching.provenance, matching.note, self.window)
            with atomic_write(pair.report) as temporary:
                temporary.write_text(page, encoding="utf-8")
        write_matches(pair.output, points, matched, self.output_space, matching.note)
        accepted = int(matched.accepted.sum())
        return f"{pair.output}: {accepted} of {len(points)} points accepted, {time.perf_counter() - start:.1f} s"


def _match_all(matching: BundleMatching, listed: list[ScanPair], path: Path, run: _Run) -> None:
    """Match what is not done yet; a pair that fails is named at the end.

    Raises:
        InputError: pairs failed.
    """
    from monai_ext.followup.pair_list import record_of
    from monai_ext.followup.pair_record import PairRecord

    spaces = {"space": run.space, "output_space": run.output_space, "window": run.window}
    record = PairRecord(record_of(path), {**matching.settings, **spaces})
    failed: list[str] = []
    skipped = 0
    for number, pair in enumerate(listed, start=1):
        try:
            if record.is_done(pair):
                skipped += 1
                print(f"{number}/{len(listed)} {pair.output}: is there and its inputs have not changed, skipped")
                continue
            print(f"{number}/{len(listed)} {run(matching, pair)}", flush=True)
            record.add(pair)
        except Exception as error:
            if os.environ.get("MONAI_EXT_DEBUG"):
                raise
            failed.append(str(pair.output))
            print(f"{number}/{len(listed)} {pair.output}: FAILED, {_reason(error)}", file=sys.stderr, flush=True)
    matched = len(listed) - skipped - len(failed)
    print(f"{len(listed)} pairs: {matched} matched, {skipped} skipped, {len(failed)} failed")
    print(f"scans embedded or read from the disk: {matching.embedded}")
    if failed:
        raise InputError(f"{path}: these failed, mend them and start again: {', '.join(failed)}")


def _reason(error: Exception) -> str:
    wanted = find_input_error(error)
    return message_of(wanted) if wanted is not None else f"{type(error).__name__}: {error}"
