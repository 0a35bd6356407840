# SPDX-License-Identifier: Apache-2.0
"""Whether one run is better than another on the same cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from monai_ext.metrics.bootstrap import bootstrap_interval
from monai_ext.metrics.case_means import CaseMean, case_means
from monai_ext.metrics.signed_rank import signed_rank_p
from monai_ext.metrics.stratified_bootstrap import stratified_interval
from monai_ext.metrics.summary import BOOTSTRAP_LEVEL
from monai_ext.sites import SiteChoice, site_names

ALPHA = 0.05
Pair = tuple[CaseMean, CaseMean]
Rows = Sequence[Mapping[str, object]]


def compare_cases(
    rows: Rows,
    other_rows: Rows,
    score: str = "dice",
    source_site: SiteChoice | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, object]:
    """Compare two runs case by case: this one less the other.

    Cases are matched by image and name, by the image where each run has it once, else by the name within one site,
    and must have the same classes and the same number of true voxels. What does not match is listed.

    Args:
        rows: of this run, one per case and class, as `CaseScores` writes them.
        other_rows: of the other run; numbers may be text.
        score: the column to compare.
        source_site: the site that the network was trained on, or several; None compares all cases alike.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``score``, ``higher_is_better``, ``source``, and

        - ``sites``: for each ``in_domain`` (None without a source) and a comparison;
        - ``unseen`` (all matched cases without a source): a comparison, and ``mean_of_sites``, the same difference
          with each site counted alike, with its interval from cases drawn within the sites; None without a case;
        - ``verdict``: of ``unseen``, "better", "worse", "equal", or "no difference shown" (p of 0.05 or more);
        - ``unmatched``: the names of cases ``only_here``, ``only_there`` and, matched but not the same,
          ``other_classes`` and ``other_truth``.

        A comparison is ``n`` pairs, ``mean_difference``, ``low`` and ``high`` (pairs drawn with replacement), ``p``
        of `signed_rank_p`, at sites also ``p_holm`` (corrected over the sites, Holm 1979), and ``note``, which says
        why there is no p or why it cannot be small.

    Raises:
        InputError: if a row has no number for the score.

    Example:
        >>> rows = [{"case": case, "class": 1, "dice": 0.5} for case in "abc"]
        >>> compare_cases(rows, rows)["verdict"]
        'equal'
    """
    sources = site_names(source_site)
    pairs, unmatched = _match(case_means(rows, [score]), case_means(other_rows, [score]))
    by_site: dict[str, list[float]] = {}
    for one, other in pairs:
        by_site.setdefault(one.site, []).append(one.scores[score] - other.scores[score])
    sites = {
        site: {"in_domain": site in sources if sources else None, **_compare(by_site[site], samples, seed)}
        for site in sorted(by_site)
        if site
    }
    for site, adjusted in _holm({site: entry["p"] for site, entry in sites.items()}).items():
        sites[site]["p_holm"] = adjusted
    unseen = {site: own for site, own in by_site.items() if not sources or (site and site not in sources)}
    overall = _overall(unseen, samples, seed) if unseen else None
    higher_is_better = not score.endswith("_mm")
    return {
        "score": score,
        "higher_is_better": higher_is_better,
        "source": list(sources),
        "sites": sites,
        "unseen": overall,
        "verdict": _verdict(overall, higher_is_better),
        "unmatched": unmatched,
    }


def _match(cases: Sequence[CaseMean], others: Sequence[CaseMean]) -> tuple[list[Pair], dict[str, list[str]]]:
    keys: list[Callable[[CaseMean], tuple[str, ...]]] = [
        lambda case: (case.image, case.name),
        lambda case: (case.image,) if case.image else (),
        lambda case: (case.site, case.name),
    ]
    partner: dict[str, CaseMean] = {}
    for key in keys:
        once = [{name for name, count in Counter(map(key, run)).items() if count == 1} for run in (cases, others)]
        taken = {case.name for case in partner.values()}
        free = {key(case): case for case in others if case.name not in taken}
        for case in cases:
            if case.name not in partner and key(case) and key(case) in once[0] & once[1] & free.keys():
                partner[case.name] = free[key(case)]
    matched = [(case, partner[case.name]) for case in cases if case.name in partner]
    classes = [case.name for case, other in matched if case.truth_voxels.keys() != other.truth_voxels.keys()]
    truth = [case.name for case, other in matched if case.name not in classes and _differ(case, other)]
    used = {case.name for case in partner.values()}
    pairs = [pair for pair in matched if pair[0].name not in {*classes, *truth}]
    return pairs, {
        "only_here": [case.name for case in cases if case.name not in partner],
        "only_there": [case.name for case in others if case.name not in used],
        "other_classes": classes,
        "other_truth": truth,
    }


def _differ(case: CaseMean, other: CaseMean) -> bool:
    """Say whether the label of a class has another size: then it is another label, or another grid."""
    counts = [(case.truth_voxels[index], other.truth_voxels[index]) for index in case.truth_voxels]
    return any(one is not None and two is not None and one != two for one, two in counts)


def _compare(differences: Sequence[float], samples: int, seed: int) -> dict[str, float | str | bool | None]:
    low, high = bootstrap_interval(differences, samples, seed, BOOTSTRAP_LEVEL)
    p = signed_rank_p(differences)
    moved = sum(round(difference, 9) != 0 for difference in differences)
    note = ""
    if not moved:
        note = "no pair differs"
    elif 2.0 ** (1 - moved) >= ALPHA:
        note = f"{moved} pairs that differ cannot give a p below {2.0 ** (1 - moved):g}"
    mean = float(np.mean(differences))
    return {"n": len(differences), "mean_difference": mean, "low": low, "high": high, "p": p, "note": note}


def _overall(by_site: Mapping[str, Sequence[float]], samples: int, seed: int) -> dict[str, object]:
    groups = list(by_site.values())
    low, high = stratified_interval(groups, None, samples, seed, BOOTSTRAP_LEVEL)
    mean = float(np.mean([np.mean(own) for own in groups]))
    pooled = _compare([difference for own in groups for difference in own], samples, seed)
    return {**pooled, "mean_of_sites": {"mean_difference": mean, "low": low, "high": high, "n": len(groups)}}


def _holm(p_values: Mapping[str, object]) -> dict[str, float | None]:
    """Adjust the p values that there are: the smallest times their number, the next times one less, never falling."""
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    known = sorted((p, site) for site, p in p_values.items() if isinstance(p, float))
    floor = 0.0
    for place, (p, site) in enumerate(known):
        floor = max(floor, min(1.0, p * (len(known) - place)))
        adjusted[site] = floor
    return adjusted


def _verdict(overall: Mapping[str, object] | None, higher_is_better: bool) -> str:
    if overall is None:
        return "no case to compare"
    p, mean = overall["p"], overall["mean_difference"]
    if not isinstance(p, float) or not isinstance(mean, float):
        return "equal"
    if p >= ALPHA:
        return "no difference shown"
    return "better" if (mean > 0) == higher_is_better else "worse"
