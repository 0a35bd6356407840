# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext pack`: the release zip of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from monai_ext.commands._bundle import find_bundle, read_json, read_metadata
from monai_ext.errors import InputError


def pack(name: str, output_dir: str = "dist", with_models: bool = False, url: str | None = None) -> None:
    """Build NAME_vVERSION.zip, its .sha256 and model_info.json, ready for `monai.bundle download`.

    The same files give the same bytes, whenever and wherever it is built. Checked first: LICENSE and metadata are
    there, the version is in the changelog, and the metadata keeps MONAI's schema if a copy of that is here
    ($MONAI_EXT_SCHEMA, or eval/schema.json of the bundle).

    Args:
        name: bundle, by name or path.
        output_dir: folder to write to.
        with_models: include models/ (without what large_files.yml names and without the resume checkpoint).
        url: folder that the zip will be published in, for model_info.json. Default: the zip where it lies now.

    Example:
        python -m monai_ext pack sam2_unet --output_dir dist
    """
    from monai_ext.files import atomic_write, sha256_of, write_json
    from monai_ext.shipping.release import check_release, check_schema, sha1_of, write_zip

    bundle = find_bundle(name)
    metadata = read_metadata(bundle)
    version = check_release(bundle, metadata)
    schema = check_schema(bundle, metadata)
    target = Path(output_dir) / f"{bundle.name}_v{version}.zip"
    if with_models and not (bundle / "models" / "model.pt").is_file():
        raise InputError(f"{bundle / 'models' / 'model.pt'}: is missing; train first, or leave --with_models out.")

    files = write_zip(bundle, bundle.name, target, with_models)
    digest = sha256_of(target)
    with atomic_write(target.with_name(target.name + ".sha256")) as temporary:
        temporary.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    info = target.parent / "model_info.json"
    entries = read_json(info) if info.is_file() else {}
    source = f"{url.rstrip('/')}/{target.name}" if url else target.resolve().as_uri()
    entries[target.stem] = {"checksum": sha1_of(target), "source": source}
    write_json(info, dict(sorted(entries.items())))

    print(f"metadata: {'valid by ' + schema if schema else 'complete; schema not checked, no copy of it here'}")
    print(f"wrote {target} ({len(files)} files, {target.stat().st_size / 1e6:.2f} MB)")
    print(f"sha256 {digest}")
    print(f"model_info.json: {json.dumps(entries[target.stem])}")
    print(f"try it: python -m monai.bundle download --name {bundle.name} --url {source} --bundle_dir DIR")
