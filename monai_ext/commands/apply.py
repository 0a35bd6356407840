# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext apply`: a stored registration applied to images, labels and points."""

from __future__ import annotations

from pathlib import Path

from monai_ext.errors import InputError


def apply(
    transform: str,
    output: str,
    image: str | None = None,
    label: str | None = None,
    points: str | None = None,
    reference: str | None = None,
    padding_value: float | None = None,
    points_of: str = "fixed",
    space: str | None = None,
    output_space: str | None = None,
) -> None:
    """Apply a registration to another image, to labels or to points.

    The transform leads from points of the fixed scan to the moving one. So it brings images and labels of the moving
    scan to the fixed one (the reference), and takes points marked in the fixed scan to the moving one.

    Args:
        transform: what register wrote, affine.tfm, transform.h5 or inverse.h5; or any that ITK wrote.
        output: file to write: .nii.gz, or for points .csv, .fcsv or .mrk.json.
        image: of the moving scan; interpolated.
        label: of the moving scan; the nearest voxel's.
        points: .csv (point, x_ras_mm, y_ras_mm, z_ras_mm; or lps), or 3D Slicer's .fcsv or .mrk.json.
        reference: image whose grid the result has, usually the fixed one.
        padding_value: where the moving image does not reach. Default: its least value, 0 for labels.
        points_of: scan in which the points are: fixed, or moving, which takes them the other way.
        space: RAS or LPS, for a CSV of points with plain columns x, y, z.
        output_space: RAS or LPS, of the points that are written. Default: space, else RAS.

    Example:
        python -m monai_ext apply --transform registered/transform.h5 --image pet.nii.gz --reference ct.nii.gz \
            --output pet_on_ct.nii.gz
    """
    given = {name: value for name, value in (("image", image), ("label", label), ("points", points)) if value}
    if len(given) != 1:
        raise InputError(f"apply: give one of --image, --label, --points, got {', '.join(given) or 'none'}.")
    if (reference is None) == (points is None):
        needed = "needs --reference, whose grid the result has" if points is None else "has no use for --reference"
        raise InputError(f"apply: --{next(iter(given))} {needed}.")
    (source,) = (Path(value) for value in given.values())
    _check_output(Path(output), [Path(transform), source, *([Path(reference)] if reference else [])])
    if points is not None:
        _apply_to_points(Path(transform), source, Path(output), points_of, space, output_space)
    else:
        _apply_to_image(Path(transform), source, Path(str(reference)), Path(output), label is not None, padding_value)
    print(f"wrote {output}")


def _check_output(output: Path, inputs: list[Path]) -> None:
    from monai_ext.followup.pair_list import is_same_file

    if output.is_dir():
        raise InputError(f"{output}: must be a file, there is a folder of this name; choose another.")
    same = next((path for path in inputs if is_same_file(output, path)), None)
    if same is not None:
        raise InputError(f"{output}: would overwrite the input {same}; name another output.")


def _apply_to_image(
    transform: Path, source: Path, reference: Path, output: Path, is_label: bool, padding_value: float | None
) -> None:
    from monai_ext.registration import AppliedRegistration
    from monai_ext.shipping.volume_files import check_nifti, read_label, read_volume, write_volume

    check_nifti(output)
    applied = AppliedRegistration(transform)
    moving = read_label(source) if is_label else read_volume(source)
    grid = read_volume(reference)
    if is_label:
        write_volume(output, applied.label(moving, grid, padding_value or 0))
        return
    outside = float(moving.min()) if padding_value is None else padding_value
    write_volume(output, applied.image(moving, grid, outside))


def _apply_to_points(
    transform: Path, source: Path, output: Path, points_of: str, space: str | None, output_space: str | None
) -> None:
    from dataclasses import replace

    from monai_ext.data.point_file import read_points, write_points
    from monai_ext.followup.lesion_list import require_volume
    from monai_ext.followup.match_table import check_match_path
    from monai_ext.registration import AppliedRegistration
    from monai_ext.spaces import check_space

    check_match_path(output)
    written = check_space(output_space or space or "RAS")
    if points_of not in ("fixed", "moving"):
        raise InputError(f"points_of must be fixed or moving, got {points_of!r}.")
    listed = require_volume(read_points(source, space))
    applied = AppliedRegistration(transform)
    moved = applied.to_moving(listed.points) if points_of == "fixed" else applied.to_fixed(listed.points)
    write_points(output, replace(listed, points=moved), written)
