# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext track`: what has become of each lesion in later scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monai_ext.commands._bundle import find_bundle
from monai_ext.errors import InputError

if TYPE_CHECKING:
    from monai_ext.followup.lesion_list import LesionList
    from monai_ext.followup.tracked_lesion import TrackedLesion
    from monai_ext.shipping.bundle_matching import BundleMatching

    Window = tuple[float, float]


def track(
    baseline: str,
    lesions: str,
    followup: str,
    output: str,
    followup_lesions: str | None = None,
    max_distance_mm: float = 10.0,
    max_cycle_mm: float = 10.0,
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
    """Find each lesion of a baseline scan in its follow-ups, and say what has become of it.

    Without the follow-ups' own lists of lesions a lesion is found or uncertain; with them it is matched, lost, new or
    uncertain, with the distance in mm, and the change of its diameter where both lists have a column diameter_mm (or
    radius_mm). Writes lesions.csv, lesions.json and report.html.

    Args:
        baseline: the first scan.
        lesions: its lesions: .csv (point, x_ras_mm, y_ras_mm, z_ras_mm; or lps), or 3D Slicer's .fcsv or .mrk.json.
        followup: later scan, or several in the order of their dates, separated by commas.
        output: folder to write to.
        followup_lesions: the follow-ups' own lists, separated by commas; nothing between two where there is none.
        max_distance_mm: a listed lesion this near to a matched place is the same, or nearer than its radius.
        max_cycle_mm: a match that leads back further away than this is uncertain.
        space: RAS or LPS, for a CSV of points with plain columns x, y, z.
        output_space: RAS or LPS, of what is written. Default: space, else RAS.
        window: intensities that the page shows as black and white, as in -160,240.
        bundle_root: bundle, by name or path.
        ckpt_path: weights of the network. Default: models/model.pt of the bundle.
        untrained: go on without weights, for a try; all results say so.
        mode: nn, mutual or fixed_point.
        embedding_dir: folder in which embeddings are kept for the next time.
        memory_mb: MB that embedding a scan may take; larger scans are cut into tiles.
        keep_mb: MB of embeddings to keep in memory.
        knobs: top-level entries of inference.json to change, as for `monai.bundle run`.

    Example:
        python -m monai_ext track --baseline a.nii.gz --lesions lesions.csv --followup b.nii.gz --output followup
    """
    from monai_ext.followup.lesion_list import read_lesions
    from monai_ext.report.paint import read_window
    from monai_ext.spaces import check_space

    target, scans, lists = Path(output), _paths(followup), _lists(followup, followup_lesions)
    written = check_space(output_space or space or "RAS")
    shown = None if window is None else read_window(window)
    if max_distance_mm < 0:
        raise InputError(f"max_distance_mm must not be negative, got {max_distance_mm}.")
    _check_target(target, [Path(baseline), Path(lesions), *scans, *(path for path in lists if path)])
    known = read_lesions(lesions, space)
    found = [None if path is None else read_lesions(path, space, may_be_empty=True) for path in lists]
    bundle = find_bundle(bundle_root)

    from monai_ext.shipping.bundle_matching import BundleMatching

    given = {"max_cycle_mm": max_cycle_mm, "mode": mode, "embedding_dir": embedding_dir, "memory_mb": memory_mb}
    chosen = {**{name: value for name, value in given.items() if value is not None}, **knobs}
    matching = BundleMatching(bundle, None if ckpt_path is None else Path(ckpt_path), chosen, untrained, keep_mb)
    if matching.note:
        print(f"note: {matching.note}; what comes out is a try and means nothing")
    tracked = [
        _track(matching, Path(baseline), known, scan, listed, max_distance_mm)
        for scan, listed in zip(scans, found, strict=True)
    ]
    files = {"scan": baseline, "lesions": lesions}
    later = [{"scan": str(s), "listed": None if p is None else str(p)} for s, p in zip(scans, lists, strict=True)]
    how = {**matching.provenance, "max_distance_mm": f"{max_distance_mm:g}", "max_cycle_mm": f"{max_cycle_mm:g}"}
    _write(target, files, later, tracked, written, how, matching.note, shown)


def _paths(text: str) -> list[Path]:
    """Return what commas separate, or the one file whose name has commas."""
    if Path(text).exists():
        return [Path(text)]
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"--followup {text}: names nothing between two commas; name a scan there.")
    return [Path(part) for part in parts]


def _lists(followup: str, text: str | None) -> list[Path | None]:
    """Return the list of each follow-up, None where there is none."""
    count = len(_paths(followup))
    if text is None:
        return [None] * count
    parts = [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
    if len(parts) != count:
        raise InputError(
            f"--followup_lesions {text}: {len(parts)} lists for {count} follow-ups; give each its own, or nothing "
            "between two commas."
        )
    return [Path(part) if part else None for part in parts]


def _check_target(target: Path, inputs: list[Path]) -> None:
    from monai_ext.followup.pair_list import is_same_file

    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: output must be a folder, there is a file of this name; choose another.")
    for path in (target / name for name in ("lesions.csv", "lesions.json", "report.html")):
        same = next((other for other in inputs if is_same_file(path, other)), None)
        if same is not None:
            raise InputError(f"{path}: would overwrite the input {same}; choose another output folder.")


def _track(
    matching: BundleMatching,
    baseline: Path,
    lesions: LesionList,
    followup: Path,
    found: LesionList | None,
    max_distance_mm: float,
) -> list[TrackedLesion]:
    """Track the lesions into one follow-up, and show what has become of how many."""
    from monai_ext.followup.track_lesions import track_lesions
    from monai_ext.followup.tracked_lesion import STATUSES

    matched = matching.match(baseline, followup, lesions.points.points)
    back = None if found is None else matching.match(followup, baseline, found.points.points)
    tracked = track_lesions(lesions, matched, found, back, max_distance_mm)
    counts = {status: sum(lesion.status == status for lesion in tracked) for status in STATUSES}
    print(f"{followup}: " + (", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing"))
    return tracked


def _write(
    target: Path,
    baseline: dict[str, str],
    followups: list[dict[str, str | None]],
    tracked: list[list[TrackedLesion]],
    space: str,
    how: dict[str, str],
    note: str,
    window: Window | None,
) -> None:
    from monai_ext.files import atomic_write
    from monai_ext.followup.lesion_tables import write_lesion_json, write_lesion_table
    from monai_ext.followup.match_page import track_page

    scans = [str(files["scan"]) for files in followups]
    page = track_page(Path(baseline["scan"]), [Path(scan) for scan in scans], tracked, how, note, window)
    write_lesion_table(target / "lesions.csv", scans, tracked, space, note)
    write_lesion_json(target / "lesions.json", baseline, followups, tracked, space, how, note)
    with atomic_write(target / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {target / 'lesions.csv'}, lesions.json and report.html")
