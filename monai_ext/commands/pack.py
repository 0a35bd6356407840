# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext pack`: the release zip of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from monai_ext.commands._bundle import all_bundles, find_bundle, read_json, read_metadata


def pack(name: str, output_dir: str = "dist", with_models: bool = False, url: str | None = None) -> None:
    """Build NAME_vVERSION.zip, its .sha256 and model_info.json, ready for `monai.bundle download`.

    The same files give the same bytes, whenever and wherever it is built. Checked first: LICENSE and metadata are
    there, the version is in the changelog, and the metadata keeps MONAI's schema if a copy of that is here
    ($MONAI_EXT_SCHEMA, or eval/schema.json of the bundle).

    Args:
        name: bundle, by name or path.
        output_dir: folder to write to.
        with_models: include models/ (without what large_files.yml names and without the resume checkpoint), and beside
            each file of weights what it is made of, under which licences.
        url: folder that the zip will be published in, for model_info.json. Default: the zip where it lies now.

    Example:
        python -m monai_ext pack sam2_unet --output_dir dist
    """
    from monai_ext.files import write_json
    from monai_ext.shipping.licences import BundleLicences
    from monai_ext.shipping.packed_bundle import PackedBundle
    from monai_ext.shipping.published_weights import PublishedWeights
    from monai_ext.shipping.release import check_release, check_schema

    bundle = find_bundle(name)
    metadata = read_metadata(bundle)
    version = check_release(bundle, metadata, with_models)
    schema = check_schema(bundle, metadata)
    licences = BundleLicences.of(bundle, version, PublishedWeights.of([*all_bundles(), bundle]), with_models)

    packed = PackedBundle.write(bundle, version, Path(output_dir), with_models, licences.sidecars)
    info = packed.path.parent / "model_info.json"
    entry = packed.model_info(url or packed.path.resolve().parent.as_uri())
    write_json(info, dict(sorted({**(read_json(info) if info.is_file() else {}), **entry}.items())))

    told = entry[packed.path.stem]
    print(f"metadata: {'valid by ' + schema if schema else 'complete; schema not checked, no copy of it here'}")
    print(f"wrote {packed.path} ({len(packed.files)} files, {packed.path.stat().st_size / 1e6:.2f} MB)")
    print(f"sha256 {packed.sha256}")
    print(f"model_info.json: {json.dumps(told)}")
    print(f"try it: python -m monai.bundle download --name {bundle.name} --url {told['source']} --bundle_dir DIR")
