# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext dg_matrix`: how a method does at sites that its training never saw."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.commands._run_step import as_words, bundle_words, run_step
from monai_ext.commands._training_time import TrainingTime
from monai_ext.errors import InputError


@dataclass(frozen=True)
class _Variant:
    """A method of the comparison: knobs, perhaps a config of its own, perhaps the training time of another."""

    name: str
    config: str | None = None
    time_of: str | None = None
    knobs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    bundle: Path
    data: Path
    root: Path
    config: str | None
    knobs: dict[str, object]

    def files(self, variant: _Variant, *more: str) -> list[str]:
        """Configs of a run, the most special last."""
        return [
            "train.json",
            *more,
            *([self.config] if self.config else []),
            *([variant.config] if variant.config else []),
        ]

    def paths(self, variant: _Variant, *more: str) -> list[Path]:
        """The same as paths; what is none lies in the bundle's configs."""
        return [Path(f) if Path(f).is_file() else self.bundle / "configs" / f for f in self.files(variant, *more)]

    def configs(self, variant: _Variant) -> dict[str, str]:
        """Hash of each config of a run: an edited one is another run."""
        from monai_ext.files import sha256_of

        return {path.name: sha256_of(path) for path in self.paths(variant, "evaluate.json")}

    def own_entries(self, variant: _Variant) -> set[str]:
        """What a variant's own config decides, whatever the knobs of all variants say."""
        return set(read_json(self.paths(variant)[-1])) if variant.config else set()

    def folder(self, variant: _Variant, source: str) -> Path:
        """Where a run's files lie."""
        return self.root / _file_name(variant.name) / _file_name(source)


def dg_matrix(
    bundle_root: str,
    dataset_dir: str,
    output_dir: str = "dg_matrix",
    config: str | None = None,
    sites: str | None = None,
    **knobs: object,
) -> None:
    """Train on each site by itself, test on all, and show the matrix of source by target.

    Writes matrix.json, matrix.csv and matrix.html: Dice, HD95 and surface Dice of every pair, the mean over unseen
    sites with an interval, the worst pair, the gap to the in-domain scores, and paired tests between variants. Run it
    again after an interruption and it goes on where it stopped; runs with the same knobs and configs are not repeated.

    A config may list variants under dg_variants, name -> knobs. Two of these are read here: config, a further config
    on top, whose entries beat knobs given here, and time_of, another variant whose training time this one is given (a
    baseline, for example). Embeddings and prepared slices are shared by all runs.

    Args:
        bundle_root: bundle, by name or path.
        dataset_dir: data with sites: a data list with a field site, or what the config's data set reads.
        output_dir: folder for runs and results.
        config: further config, in the bundle's configs or by path, e.g. demo_sites.json or recipe_prostate.json.
        sites: source sites, separated by commas; all that have training cases if left out.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 2.

    Example:
        python -m monai_ext dg_matrix desam --dataset_dir demo_data/sites --config demo_sites.json
    """
    bundle = find_bundle(bundle_root)
    plan = _Plan(bundle, Path(dataset_dir).absolute(), Path(output_dir).absolute(), config, dict(knobs))
    variants = _variants_of(plan)
    sources = _source_sites(plan, variants[0], sites)
    started = time.monotonic()
    print(f"{len(variants)} variants, {len(sources)} sources: {', '.join(sources)}", flush=True)
    for variant in variants:
        for source in sources:
            _train_and_evaluate(plan, variant, source)
    content = _collect(plan, variants, sources)
    content["minutes"] = round((time.monotonic() - started) / 60, 1)
    _write(plan.root, content)
    print(f"\nall done in {content['minutes']} minutes: {plan.root / 'matrix.html'}")


def _variants_of(plan: _Plan) -> list[_Variant]:
    if plan.config is None:
        return [_Variant(plan.bundle.name)]
    path = plan.config if Path(plan.config).is_file() else plan.bundle / "configs" / plan.config
    listed = read_json(Path(path)).get("dg_variants") or {plan.bundle.name: {}}
    variants = [
        _Variant(
            name,
            own.get("config"),
            own.get("time_of"),
            {k: v for k, v in own.items() if k not in ("config", "time_of")},
        )
        for name, own in listed.items()
    ]
    names = [variant.name for variant in variants]
    for place, variant in enumerate(variants):
        if variant.time_of is not None and variant.time_of not in names[:place]:
            raise InputError(
                f"{path}: time_of of {variant.name!r} must be a variant before it, got {variant.time_of!r}."
            )
    return variants


def _source_sites(plan: _Plan, variant: _Variant, chosen: str | Sequence[str] | None) -> list[str]:
    """Return the sites that can train, in the order of their cases, or those of them that were chosen."""
    items = _training_items(plan, variant)
    known = list(dict.fromkeys(str(item["site"]) for item in items if item.get("site")))
    if len(known) < 2:
        raise InputError(
            f"{plan.data}: training cases name {len(known)} sites, at least two are wanted; give each item of the "
            "data list a 'site'."
        )
    if chosen is None:
        return known
    wanted = chosen.split(",") if isinstance(chosen, str) else [str(name) for name in chosen]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"sites: there is no training case of {', '.join(unknown)}; one of: {', '.join(known)}.")
    return wanted


def _training_items(plan: _Plan, variant: _Variant) -> list[dict[str, Any]]:
    import warnings

    from monai.bundle import ConfigParser

    parser = ConfigParser()
    files = plan.paths(variant)
    parser.read_config([str(file) for file in files])
    parser["bundle_root"], parser["dataset_dir"], parser["source_site"] = str(plan.bundle), str(plan.data), None
    for name, value in {**plan.knobs, **variant.knobs}.items():
        if name not in parser.get():
            raise InputError(f"{name}: is no knob of {files[0]}.")
        parser[name] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns each time that a config is code; the bundle is the user's own
        items: list[dict[str, Any]] = parser.get_parsed_content("train#dataset#data", instantiate=True)
    return items


def _train_and_evaluate(plan: _Plan, variant: _Variant, source: str) -> None:
    folder = plan.folder(variant, source)
    places = {
        "dataset_dir": plan.data,
        "output_dir": folder / "eval",
        "ckpt_dir": folder / "models",
        "cache_dir": plan.root / "cache",
        "embedding_dir": plan.root / "embeddings",
        "source_site": source,
    }
    knobs = {name: value for name, value in plan.knobs.items() if name not in plan.own_entries(variant)}
    words = as_words({**places, **knobs, **variant.knobs})
    if variant.time_of is not None:
        words += as_words(TrainingTime.of(plan.folder(_Variant(variant.time_of), source)).knobs())
    training = [*bundle_words(plan.bundle, "training", plan.files(variant)), *words]
    evaluation = [*bundle_words(plan.bundle, "evaluating", plan.files(variant, "evaluate.json")), *words]
    record = folder / "finished.json"
    asked = {"training": training, "evaluation": evaluation, "configs": plan.configs(variant)}
    if record.is_file() and read_json(record) == asked:
        print(f"-- {variant.name}, trained on {source}: is there already", flush=True)
        return
    run_step(f"{variant.name}: training on {source}", [*training, "--resume", "True"], "dg_matrix")
    run_step(f"{variant.name}: trained on {source}, tested on all", evaluation, "dg_matrix")
    from monai_ext.files import write_json

    write_json(record, asked)


def _collect(plan: _Plan, variants: Sequence[_Variant], sources: Sequence[str]) -> dict[str, Any]:
    from monai_ext.metrics.site_matrix import compare_matrices, site_matrix
    from monai_ext.tables import read_cases

    runs = {
        variant.name: {source: read_cases(plan.folder(variant, source) / "eval" / "cases.csv") for source in sources}
        for variant in variants
    }
    first = variants[0].name
    return {
        "bundle": plan.bundle.name,
        "sources": list(sources),
        "variants": {name: site_matrix(own) for name, own in runs.items()},
        "training_seconds": {
            variant.name: {source: TrainingTime.of(plan.folder(variant, source)).seconds for source in sources}
            for variant in variants
        },
        "compared": {
            f"{first} less {name}": {score: compare_matrices(runs[first], own, score) for score in ("dice", "nsd")}
            for name, own in runs.items()
            if name != first
        },
    }


def _write(root: Path, content: Mapping[str, Any]) -> None:
    from monai_ext.files import atomic_write, write_json
    from monai_ext.report.matrix_page import matrix_page, matrix_rows, matrix_text
    from monai_ext.tables import write_table

    write_json(root / "matrix.json", content)
    rows = matrix_rows(content)
    write_table(root / "matrix.csv", tuple(rows[0]), rows)
    with atomic_write(root / "matrix.html") as temporary:
        temporary.write_text(matrix_page(content), encoding="utf-8")
    print(matrix_text(content), flush=True)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "site"
