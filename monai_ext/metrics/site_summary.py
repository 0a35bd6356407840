# SPDX-License-Identifier: Apache-2.0
"""How a network trained at some sites does at each site, and at those that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monai_ext.metrics.bootstrap import summary_statistics
from monai_ext.metrics.case_means import CaseMean, case_means
from monai_ext.metrics.segmentation import SCORES
from monai_ext.metrics.stratified_bootstrap import stratified_interval
from monai_ext.metrics.summary import BOOTSTRAP_LEVEL
from monai_ext.sites import SiteChoice, site_names

Values = dict[str, list[float]]  # one per case, by site


def summarize_sites(
    rows: Sequence[Mapping[str, object]],
    source_site: SiteChoice | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, object]:
    """Summarise scores per site, and over the sites that are not the source (domain generalisation).

    All values are of a case's mean over its foreground classes. Cases without a site count nowhere.

    Args:
        rows: one per case and class, with ``case``, ``site``, ``class`` and the `SCORES`.
        source_site: the site that the network was trained on, or several; None when that is unknown.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``source``, the list of its names, and ``sites``: for each ``in_domain`` (None without a source), ``cases``
        and by score the `summary_statistics`. With a source also

        - ``unseen``, None where every site is a source: ``sites``, ``cases``, ``mean_of_sites`` (each site counts
          the same; by score ``mean``, ``low``, ``high`` from cases drawn within the sites, ``n`` sites), ``pooled``
          (each case counts the same, the published way) and ``worst_site`` (by score ``site`` and ``mean``);
        - ``gap``: by score the in-domain mean less ``mean_of_sites`` with its interval, None where there is no
          in-domain or no unseen case. For distances a gap below 0 means that unseen sites are worse.

    Example:
        >>> scores = [("a", "north", 0.75), ("b", "south", 0.5)]
        >>> rows = [{"case": c, "site": s, "class": 1, **dict.fromkeys(SCORES, x)} for c, s, x in scores]
        >>> summarize_sites(rows, "north")["gap"]["dice"]["mean"]
        0.25
    """
    sources = site_names(source_site)
    cases = [case for case in case_means(rows) if case.site]
    by_site = {site: [case for case in cases if case.site == site] for site in sorted({case.site for case in cases})}
    content: dict[str, object] = {
        "source": list(sources),
        "sites": {
            site: {
                "in_domain": site in sources if sources else None,
                "cases": len(own),
                **{score: _statistics([case.scores[score] for case in own], samples, seed) for score in SCORES},
            }
            for site, own in by_site.items()
        },
    }
    if sources:
        inside = {site: own for site, own in by_site.items() if site in sources}
        outside = {site: own for site, own in by_site.items() if site not in sources}
        content["unseen"] = _unseen(outside, samples, seed) if outside else None
        content["gap"] = {
            score: _gap(_values(inside, score), _values(outside, score), samples, seed) for score in SCORES
        }
    return content


def _statistics(values: Sequence[float], samples: int, seed: int) -> dict[str, float | None]:
    return summary_statistics(values, samples, seed, BOOTSTRAP_LEVEL)


def _values(by_site: Mapping[str, Sequence[CaseMean]], score: str) -> Values:
    return {site: [case.scores[score] for case in own] for site, own in by_site.items()}


def _unseen(by_site: Mapping[str, Sequence[CaseMean]], samples: int, seed: int) -> dict[str, object]:
    values = {score: _values(by_site, score) for score in SCORES}
    pooled = {score: [value for own in values[score].values() for value in own] for score in SCORES}
    return {
        "sites": len(by_site),
        "cases": sum(len(own) for own in by_site.values()),
        "mean_of_sites": {score: _mean_of_sites(values[score], samples, seed) for score in SCORES},
        "pooled": {score: _statistics(pooled[score], samples, seed) for score in SCORES},
        "worst_site": {score: _worst(values[score], largest=score.endswith("_mm")) for score in SCORES},
    }


def _mean_of_sites(values: Values, samples: int, seed: int) -> dict[str, float | None]:
    low, high = stratified_interval(list(values.values()), None, samples, seed, BOOTSTRAP_LEVEL)
    return {"mean": _mean(values), "low": low, "high": high, "n": len(values)}


def _mean(values: Values) -> float:
    return float(np.mean([np.mean(own) for own in values.values()]))


def _worst(values: Values, largest: bool) -> dict[str, object]:
    means = {site: float(np.mean(own)) for site, own in values.items()}
    site = max(means, key=lambda name: means[name] if largest else -means[name])
    return {"site": site, "mean": means[site]}


def _gap(inside: Values, outside: Values, samples: int, seed: int) -> dict[str, float | None] | None:
    if not inside or not outside:
        return None
    weights = [1 / len(inside)] * len(inside) + [-1 / len(outside)] * len(outside)
    groups = [*inside.values(), *outside.values()]
    low, high = stratified_interval(groups, weights, samples, seed, BOOTSTRAP_LEVEL)
    return {"mean": _mean(inside) - _mean(outside), "low": low, "high": high}
