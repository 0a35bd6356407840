# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext register`: one scan brought onto another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.errors import InputError

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from monai_ext.data.point_list import PointList
    from monai_ext.shipping.registration_files import RegistrationInputs

    Labels = tuple[MetaTensor, MetaTensor]
    Points = tuple[PointList, PointList]

INVERSE_MM = 0.1


def register(
    fixed: str,
    moving: str,
    output: str,
    steps: str = "affine,coarse",
    moving_label: str | None = None,
    fixed_label: str | None = None,
    points: str | None = None,
    space: str | None = None,
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    body_threshold: float | None = None,
    padding_value: float | None = None,
    reembed: bool = True,
    bundle_root: str = "anatomical_embedding",
    ckpt_path: str | None = None,
    untrained: bool = False,
    deform_bundle: str = "anatomical_registration",
    deform_ckpt: str | None = None,
    embedding_dir: str | None = None,
    memory_mb: float | None = None,
    **knobs: object,
) -> None:
    """Bring one scan onto another by what places look like.

    Writes warped.nii.gz (on the fixed scan's grid), warped_label.nii.gz, affine.tfm, transform.h5 and inverse.h5 (for
    ITK and 3D Slicer), registration.json (residuals, folding, similarity, times) and picture.png.

    Args:
        fixed: scan that stays.
        moving: scan to bring onto it.
        output: folder to write to.
        steps: affine, coarse (a displacement after it), deform (a trained network's displacement after these),
            instance (which improves what there is); separated by commas.
        moving_label: labels of the moving scan, to be brought along.
        fixed_label: labels of the fixed scan, to measure Dice with those.
        points: CSV of the same places in both scans (fixed_x_ras_mm, ..., moving_x_ras_mm, ...), to measure errors.
        space: RAS or LPS, for points with plain columns fixed_x, ....
        fixed_mask: body of the fixed scan, other than 0 inside.
        moving_mask: body of the moving scan.
        body_threshold: without masks: intensity as the network gets it above which there is body. Default: that of
            the bundle's train.json; False: everything is body.
        padding_value: of the warped image where the moving one does not reach. Default: its least value.
        reembed: False moves embeddings after the affine map, instead of making them again.
        bundle_root: bundle, by name or path.
        ckpt_path: weights of the network. Default: models/model.pt of the bundle.
        untrained: go on without weights, for a try; all results say so.
        deform_bundle: bundle whose network takes the step deform, by name or path.
        deform_ckpt: weights of that network. Default: models/model.pt of its bundle.
        embedding_dir: folder in which embeddings are kept for the next time.
        memory_mb: MB that embedding a scan may take; larger scans are cut into tiles.
        knobs: arguments of the steps (stride, threshold, estimator, model, field, ...; coarse_stride is of that step
            alone), and top-level entries of inference.json; deform_spacing is that of deform_bundle alone.

    Example:
        python -m monai_ext register --fixed a.nii.gz --moving b.nii.gz --output registered
    """
    from monai_ext.shipping.bundle_deformation import BundleDeformation
    from monai_ext.shipping.bundle_matching import BundleMatching
    from monai_ext.shipping.bundle_registration import BundleRegistration
    from monai_ext.shipping.registered_pair import PairPaths
    from monai_ext.shipping.registration_files import RegistrationFiles, RegistrationInputs, check_target
    from monai_ext.shipping.registration_knobs import registration_knobs
    from monai_ext.shipping.registration_scores import RegistrationScores
    from monai_ext.shipping.step_costs import StepCosts

    chosen = registration_knobs([step.strip() for step in steps.split(",")], knobs)
    scans = PairPaths(Path(fixed), Path(moving), _path(fixed_mask), _path(moving_mask))
    inputs = RegistrationInputs(scans, _path(moving_label), _path(fixed_label), _path(points))
    weights = [Path(path) for path in (ckpt_path, deform_ckpt) if path]
    check_target(Path(output), [*inputs.paths, *weights])
    known, labels = _known_points(inputs.points, space), _labels(inputs)
    bundle = find_bundle(bundle_root)
    threshold = _threshold(bundle, body_threshold)
    given = {"embedding_dir": embedding_dir, "memory_mb": memory_mb}
    further = {**{name: value for name, value in given.items() if value is not None}, **chosen.bundle}
    matching = BundleMatching(bundle, _path(ckpt_path), further, untrained)
    if matching.note:
        print(f"note: {matching.note}; what comes out is a try and means nothing")
    deformation = None
    if "deform" in chosen.steps:
        deformation = BundleDeformation(
            find_bundle(deform_bundle), _path(deform_ckpt), chosen.deform, chosen.bundle, matching.weights, untrained
        )
    costs = StepCosts()
    pair = BundleRegistration(matching, chosen, threshold, reembed, costs, deformation)(scans)
    scores = RegistrationScores(pair.fixed, pair.moving, pair.body, known, labels)
    record = RegistrationFiles(Path(output), inputs, scores, costs, padding_value).write(pair, matching, deformation)
    _tell(Path(output), record)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _threshold(bundle: Path, given: float | None) -> float | None:
    """Return the threshold of the body, None for no threshold."""
    if given is False:
        return None
    if given is None:
        path = bundle / "configs" / "train.json"
        given = read_json(path).get("body_threshold") if path.is_file() else None
        return float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else None
    if given is True or not isinstance(given, (int, float)):
        raise InputError(f"body_threshold must be a number, or False for none, got {given!r}.")
    return float(given)


def _known_points(path: Path | None, space: str | None) -> Points | None:
    """Return the same places in both scans."""
    if path is None:
        return None
    from monai_ext.data.pair_prefixes import PREFIXES, pair_prefixes
    from monai_ext.data.point_file import read_point_pairs
    from monai_ext.followup.lesion_list import require_volume

    fixed, moving = read_point_pairs(path, *(pair_prefixes(path) or PREFIXES[0]), space=space)
    return require_volume(fixed), require_volume(moving)


def _labels(inputs: RegistrationInputs) -> Labels | None:
    """Return the labels of the fixed and the moving scan where there are both."""
    if inputs.fixed_label is None:
        return None
    if inputs.moving_label is None:
        raise InputError(f"{inputs.fixed_label}: --fixed_label is compared with --moving_label; give that too.")
    from monai_ext.shipping.volume_files import read_label

    return read_label(inputs.fixed_label), read_label(inputs.moving_label)


def _tell(target: Path, record: Mapping[str, Any]) -> None:
    """Show a line per step, and what the user should look at."""
    for step in record["steps"]:
        parts = [] if step["ncc"] is None else [f"NCC {step['ncc']:.3f}"]
        parts += [f"error {step['tre_mm']['mean']:.2f} mm"] if "tre_mm" in step else []
        parts += [f"Dice {step['dice']['mean']:.3f}"] if step.get("dice") else []
        if "displaced_mean_mm" in step:
            parts.append(f"displaced by {step['displaced_mean_mm']:.2f} mm")
        if "matches" in step:
            parts.append(f"{step['inliers']} of {step['matches']} matches, {step['residual_mean_mm']:.2f} mm off")
        if step["step"] in record["costs"]:
            parts.append(f"{record['costs'][step['step']]['seconds']:.1f} s")
        print(f"{step['step']:<9} {', '.join(parts)}")
    last, inverse = record["steps"][-1], record["inverse"]["residual_max_mm"]
    if last["folding_percent"]:
        print(f"note: the displacement folds in {last['folding_percent']:.2f} % of the body; raise smoothness")
    if inverse > INVERSE_MM:
        print(f"note: inverse after forward is up to {inverse:.2f} mm off inside the body")
    print(f"wrote {', '.join(record['files'])} to {target}")
