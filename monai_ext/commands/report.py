# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext report`: one HTML file about a run, to read, print or send."""

from __future__ import annotations

from pathlib import Path


def report(bundle_root: str, output: str = "report.html", output_dir: str | None = None) -> None:
    """Write a report of a bundle's run as one HTML file that needs no network.

    It shows what was run, the scores with their intervals, curves, pictures of the best, median and worst case, a
    slice-by-slice viewer, licences and how to cite. What the run did not write is named, with the command that does.

    Args:
        bundle_root: the bundle's folder, or the name of a bundle.
        output: the file to write.
        output_dir: the folder that the run wrote to; ``eval`` in the bundle's folder when it is not given.

    Example:
        python -m monai_ext report --bundle_root bundles/sam2_unet --output report.html
    """
    from monai_ext.commands._bundle import find_bundle
    from monai_ext.errors import InputError
    from monai_ext.files import atomic_write
    from monai_ext.report import build_report

    root = find_bundle(str(bundle_root))
    folder = root / "eval" if output_dir is None else Path(str(output_dir))
    if output_dir is not None and not folder.is_dir():
        raise InputError(f"{folder}: output_dir must be the folder of a run, there is none; give the run's output_dir.")
    target = Path(str(output))
    if target.is_dir():
        raise InputError(f"{target}: output must be a file, this is a folder; give {target / 'report.html'}.")
    made = build_report(root, folder)
    with atomic_write(target) as temporary:
        temporary.write_text(made.html, encoding="utf-8")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {made.cases} cases")
    for name, problem in made.problems.items():
        print(f"  {name} {problem}: the report says how to get it")
