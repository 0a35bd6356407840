# SPDX-License-Identifier: Apache-2.0
"""Command `demo_data`: write a real brain MRI with labels to a folder, without a download."""

from __future__ import annotations


def demo_data(output_dir: str, seed: int = 0, resolution: int = 1) -> None:
    """Write demo data made from the MNI152 brain that ships inside nilearn; nothing is downloaded.

    The folder gets the T1 volume with labels (CSF, grey and white matter) and its training, validation and test
    slabs (datalist.json; datalist_tissue.json for brain tissue as one object), the same as PNG slices (slices/), six
    simulated scanners (sites/), a follow-up pair with 200 corresponding points (followup/), two more pairs moved by
    known affines (pairs/), a picture of it all (preview.png) and the licence. The same seed gives the same bytes.

    Args:
        output_dir: a new or empty folder, or one that this command wrote before.
        seed: fixes bias fields, noise, and the movements and points of all pairs.
        resolution: voxel size in mm, 1 (the original), 2 or 4; 4 takes a few seconds.

    Example:
        python -m monai_ext demo_data --output_dir demo_data
    """
    import time
    from pathlib import Path

    from monai_ext.demo import write_demo_data

    start = time.perf_counter()
    folder = Path(str(output_dir))  # the command line turns a name such as 2024 into a number
    record = write_demo_data(folder, seed, resolution)
    _report(folder, record, time.perf_counter() - start)


def _report(folder: object, record: dict[str, object], seconds: float) -> None:
    """Print what was written, the voxels of each class, and where to look first."""
    import json
    from pathlib import Path

    root = Path(str(folder))
    names = list(json.loads((root / "demo_data.json").read_text(encoding="utf-8"))["files"])
    print(f"{root}: {len(names)} files, {sum((root / name).stat().st_size for name in names) / 1e6:.0f} MB")
    for top, meaning in _CONTENTS.items():
        mine = [name for name in names if name == top or name.startswith(f"{top}/")]
        print(f"  {top:<22}{len(mine):>4}  {meaning}")
    slabs = record["slabs"]
    if isinstance(slabs, dict):
        print(f"  {'part':<12}{'slices':>10}{'z in mm':>16}{'CSF':>10}{'grey':>10}{'white':>10}  voxels")
        for part, content in slabs.items():
            first, last = content["slices"]
            low, high = content["centres_mm"]
            counts = "".join(f"{count:>10}" for count in content["voxels"][1:])
            print(f"  {part:<12}{f'{first}..{last}':>10}{f'{low:g}..{high:g}':>16}{counts}")
    print(f"seed {record['seed']}, {seconds:.1f} s; look at {root / 'preview.png'} first")


_CONTENTS = {
    "brain": "the whole volume and its label",
    "datalist.json": "data list of the slabs: use the folder as dataset_dir",
    "datalist_tissue.json": "the same slabs with one object, brain tissue: use the file as dataset_dir",
    "slabs": "training, validation and test slab",
    "slices": "the same slabs as PNG slices, with a data list",
    "sites": "six simulated scanners, with a data list",
    "followup": "two scans, their labels, 200 points, the known map",
    "pairs": "two scans of the brain moved by known affines, 200 points each",
    "pairs.json": "list of all three pairs, to measure point matching: use the file as dataset_dir",
    "scans.json": "the brain alone, to learn from without labels: use the file as dataset_dir",
    "preview.png": "one slice of every volume",
    "LICENSE-ICBM152.txt": "the notice that goes with the images",
}
