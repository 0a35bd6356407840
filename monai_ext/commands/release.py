# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext release`: everything that is published, in one folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ext.commands._bundle import all_bundles, find_bundle, read_json, read_metadata
from monai_ext.distinct_names import check_distinct
from monai_ext.errors import InputError

if TYPE_CHECKING:
    from monai_ext.shipping.licences import BundleLicences

SUMS = "SHA256SUMS"


def release(
    output_dir: str = "dist",
    bundles: str | None = None,
    with_models: bool = False,
    url: str | None = None,
    commercial: bool = False,
    wheel: str | None = None,
) -> None:
    """Build the zips of all bundles, the wheel, their hashes and the table of licences.

    Written are NAME_vVERSION.zip and its .sha256 for each bundle, model_info.json (MONAI's list), the wheel,
    LICENCES.md and licences.json (what each is made of), and SHA256SUMS, last. The same files give the same bytes.
    Everything is checked and built before the first file appears; files that are there with the same content are kept,
    and a killed command is simply given again.

    Args:
        output_dir: folder to write to.
        bundles: names or paths, as in --bundles desam,sam_sp. Default: all that `python -m monai_ext list` shows.
        with_models: include models/, as `pack` does; each bundle must have its models/model.pt.
        url: folder that the files will be published in, for model_info.json. Default: where they lie now.
        commercial: refuse, naming each culprit, if anything in the release forbids commercial use or if that is not
            known. What users fetch by themselves (large_files.yml, data) is listed, and does not count.
        wheel: one that was built, and perhaps tested, before. Default: built from the sources.

    Example:
        python -m monai_ext release --output_dir dist --url https://github.com/OWNER/REPO/releases/download/TAG
    """
    from monai_ext.shipping.commercial_check import check_commercial
    from monai_ext.shipping.licences import BundleLicences
    from monai_ext.shipping.published_weights import PublishedWeights
    from monai_ext.shipping.release import check_release, check_schema

    folders = _chosen(bundles)
    built = _built_wheel(wheel)
    published = PublishedWeights.of({*all_bundles(), *folders})
    found = []
    for bundle in folders:
        metadata = read_metadata(bundle)
        version = check_release(bundle, metadata, with_models)
        check_schema(bundle, metadata)
        found.append(BundleLicences.of(bundle, version, published, with_models))
    if commercial:
        check_commercial(found)
    states = _build(folders, found, Path(output_dir), with_models, url, built)

    for name, state in states.items():
        print(f"{state:<9}{Path(output_dir) / name}")
    for bundle_licences in found:
        print(f"{bundle_licences.bundle}: commercial use {bundle_licences.commercial}{_pointers(bundle_licences)}")
    print(f"check it: cd {output_dir} && sha256sum -c {SUMS}")


def _chosen(bundles: str | None) -> list[Path]:
    if bundles is None:
        folders = all_bundles()
    else:
        folders = [find_bundle(name.strip()) for name in bundles.strip("[]()").split(",") if name.strip()]
    if not folders:
        raise InputError("no bundle to release: none found in ./bundles, here, or beside the package; name some.")
    names = [folder.name for folder in folders]
    check_distinct("--bundles", names, "a release has one bundle of each name")
    return sorted(folders, key=lambda folder: folder.name)


def _built_wheel(wheel: str | None) -> Path | None:
    if wheel is not None and not (Path(wheel).is_file() and wheel.endswith(".whl")):
        raise InputError(f"--wheel {wheel}: is no wheel; build one with `python -m build --wheel`, or leave it out.")
    return None if wheel is None else Path(wheel)


def _build(
    folders: list[Path],
    found: list[BundleLicences],
    output: Path,
    with_models: bool,
    url: str | None,
    built: Path | None,
) -> dict[str, str]:
    """Build into a folder of its own beside the results, then move them; return what became of each file."""
    import shutil
    import tempfile

    from monai_ext.files import write_json
    from monai_ext.shipping.packed_bundle import PackedBundle
    from monai_ext.shipping.publish import publish
    from monai_ext.shipping.wheel import build_wheel

    known = read_json(output / "model_info.json") if (output / "model_info.json").is_file() else {}
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=output) as temporary:
        staged = Path(temporary)
        wheel = build_wheel(staged) if built is None else Path(shutil.copyfile(built, staged / built.name))
        address = url or output.resolve().as_uri()
        for folder, licences in zip(folders, found, strict=True):
            packed = PackedBundle.write(folder, licences.version, staged, with_models, licences.sidecars)
            known |= packed.model_info(address)
        write_json(staged / "model_info.json", dict(sorted(known.items())))
        _write_licences(staged, found, wheel.name)
        _write_sums(staged)
        return publish(staged, output, SUMS)


def _write_licences(staged: Path, found: Iterable[BundleLicences], wheel: str) -> None:
    from monai_ext.files import atomic_write, write_json
    from monai_ext.shipping.licence_entry import LicenceEntry
    from monai_ext.shipping.licence_table import licence_table

    package = LicenceEntry("code", wheel, "Apache-2.0", "yes", "LICENSE")
    record = {"package": package.as_record(), "bundles": [licences.as_record() for licences in found]}
    write_json(staged / "licences.json", record)
    with atomic_write(staged / "LICENCES.md") as temporary:
        temporary.write_text(licence_table(found, package), encoding="utf-8")


def _write_sums(staged: Path) -> None:
    from monai_ext.files import atomic_write, sha256_of

    files = sorted(file for file in staged.iterdir() if file.suffix != ".sha256")
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    with atomic_write(staged / SUMS) as temporary:
        temporary.write_text(lines, encoding="utf-8")


def _pointers(licences: BundleLicences) -> str:
    """Say what the release does not contain but names, if it may not be used commercially."""
    doubtful = [entry.name for entry in licences.fetched if entry.commercial != "yes"]
    return f"; not contained, other terms or unknown: {', '.join(doubtful)}" if doubtful else ""
