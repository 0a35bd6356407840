# SPDX-License-Identifier: Apache-2.0
"""Networks that were trained on one site each, tested on all: the matrix of source by target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_ext.metrics.paired_tests import compare_cases
from monai_ext.metrics.site_summary import summarize_sites

Rows = Sequence[Mapping[str, object]]


def site_matrix(runs: Mapping[str, Rows], samples: int = 1000, seed: int = 0) -> dict[str, object]:
    """Summarise one run for each source site.

    Args:
        runs: source site -> rows of its ``cases.csv``, one per case and class; numbers may be text.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        - ``cells``: source -> target -> ``in_domain``, ``cases`` and by score the statistics over cases;
        - ``unseen``: over all pairs of a source and another target. ``pairs``, ``cases``, ``mean_of_pairs`` (by score
          ``mean``, ``low``, ``high``, with cases drawn within the pairs) and ``worst_pair`` (by score ``source``,
          ``target``, ``mean``); None where no source is tested elsewhere;
        - ``gap``: by score the mean of the in-domain cells less that of the unseen pairs.

    Example:
        >>> def row(site, dice):
        ...     return {"case": site, "site": site, "class": 1, **dict.fromkeys(SCORES, dice)}
        >>> matrix = site_matrix({"n": [row("n", 0.9), row("s", 0.5)], "s": [row("n", 0.75), row("s", 1.0)]})
        >>> matrix["unseen"]["mean_of_pairs"]["dice"]["mean"], matrix["unseen"]["worst_pair"]["dice"]["target"]
        (0.625, 's')
    """
    cells = {
        source: _as_mapping(summarize_sites(rows, source, samples, seed)["sites"]) for source, rows in runs.items()
    }
    rows, names, inside = _paired(runs)
    overall = summarize_sites(rows, inside or None, samples, seed)
    unseen = overall.get("unseen") if inside else summarize_sites(rows, ["none"], samples, seed)["unseen"]
    content: dict[str, object] = {"cells": cells, "unseen": None, "gap": overall.get("gap")}
    if isinstance(unseen, dict):
        worst = {
            score: {**dict(zip(("source", "target"), names[entry["site"]], strict=True)), "mean": entry["mean"]}
            for score, entry in unseen["worst_site"].items()
        }
        content["unseen"] = {
            "pairs": unseen["sites"],
            "cases": unseen["cases"],
            "mean_of_pairs": unseen["mean_of_sites"],
            "worst_pair": worst,
        }
    return content


def compare_matrices(
    runs: Mapping[str, Rows], others: Mapping[str, Rows], score: str = "dice", samples: int = 1000, seed: int = 0
) -> dict[str, object]:
    """Compare two methods, trained on the same sources, over the cases of sites that each training had not seen.

    A case counts once for each source that is not its own; such values are not independent of each other, which makes
    p smaller than it should be. The interval of ``mean_of_sites`` draws cases within each pair of source and target.

    Args:
        runs: of this method, source site -> rows of its ``cases.csv``.
        others: of the other.
        score: the column to compare.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        As `compare_cases`, with ``<source> to <target>`` for a site.

    Example:
        >>> runs = {"n": [{"case": "a", "site": "s", "class": 1, "dice": 0.5}]}
        >>> compare_matrices(runs, runs)["verdict"]
        'equal'
    """
    rows, _, inside = _paired(runs)
    other_rows, _, _ = _paired(others)
    return compare_cases(rows, other_rows, score, inside or None, samples, seed)


def _paired(runs: Mapping[str, Rows]) -> tuple[list[dict[str, object]], dict[str, tuple[str, str]], list[str]]:
    """Put all runs into one table whose sites are pairs; return it, what each pair is, and the in-domain pairs."""
    rows: list[dict[str, object]] = []
    names: dict[str, tuple[str, str]] = {}
    for source, own in runs.items():
        for row in own:
            target = str(row.get("site") or "")
            if not target:
                continue
            pair = f"{source} to {target}"
            names[pair] = (source, target)
            image = f"{source}: {row['image']}" if row.get("image") else ""
            rows.append({**row, "site": pair, "case": f"{source}: {row['case']}", "image": image})
    return rows, names, [pair for pair, (source, target) in names.items() if source == target]


def _as_mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}
