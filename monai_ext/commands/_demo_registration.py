# SPDX-License-Identifier: Apache-2.0
"""The demo of a bundle that registers: learn from one brain, bring a deformed one back, beside other methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.commands._demo_places import DemoPlaces, Outcome, Step
from monai_ext.commands._run_step import as_words
from monai_ext.errors import InputError

EMBEDDER = "anatomical_embedding"  # the bundle whose network says what places look like
OURS, PLAIN, ITK = "registered", "registered_plain", "registered_itk"  # folders of results
RECORD, TABLE = "registration.json", "comparison.csv"


class _Row(NamedTuple):
    """A line of the table: its title, a step of a record, and the costs that add up to its time."""

    title: str
    folder: str
    step: str
    costs: tuple[str, ...] = ()


TO_COARSE = ("embed", "affine", "embed again", "coarse")  # what is paid for up to there
ROWS = (
    _Row("nothing", OURS, "before"),
    _Row("SAM-affine", OURS, "affine", ("embed", "affine")),
    _Row("SAM-affine, coarse", OURS, "coarse", TO_COARSE),
    _Row("SAM-affine, coarse, deform", OURS, "deform", (*TO_COARSE, "deform")),
    _Row("the same, then instance", OURS, "instance", (*TO_COARSE, "deform", "instance")),
    _Row("SAM-affine, plain VoxelMorph", PLAIN, "deform", ("embed", "affine", "deform")),
    _Row("SimpleITK affine", ITK, "itk_affine", ("itk_affine",)),
    _Row("SimpleITK affine, B-spline", ITK, "itk_bspline", ("itk_affine", "itk_bspline")),
)
SHOWN = ("error_mm", "largest_mm", "dice_grey", "dice_white", "folding_percent", "seconds")
GREY, WHITE = "2", "3"


class RegistrationDemo:
    """Steps and promises of a bundle that registers.

    The embedder is that of the demo of ``anatomical_embedding`` in the same folder, trained here if that did not run
    yet; ``--embedder FILE`` takes another one. What ``demo.json`` says to this command alone:

    - ``demo_plain``: knobs that make the network a plain VoxelMorph, for comparison;
    - ``expected_error_mm``: step -> largest mean error in mm over the known points.

    Args:
        places: the files of the demo.
        wishes: content of ``demo.json``.
    """

    def __init__(self, places: DemoPlaces, wishes: Mapping[str, Any]) -> None:
        self.places, self.wishes = places, wishes
        self.plain: dict[str, object] = wishes.get("demo_plain", {})
        self.expected: dict[str, float] = wishes.get("expected_error_mm", {})
        self.embedding = DemoPlaces(find_bundle(EMBEDDER), places.root, places.brief)

    def steps(self, resolution: int, knobs: dict[str, object]) -> list[Step]:
        """See `DemoPlan`."""
        places, chosen = self.places, dict(knobs)
        given = chosen.pop("embedder", None)
        embedder = self.embedding.models / "model.pt" if given is None else Path(str(given)).absolute()
        scans = ["--dataset_dir", str(places.data / "scans.json"), "--resume", "True"]
        learned = [*scans, "--embedder_path", str(embedder), *as_words(chosen)]
        train, plain = places.bundle_run("training", ["train.json"], learned), self._plain_models
        return [
            places.data_step(resolution),
            *([] if given is not None else [("training of the embedder", self._embedder_run(scans, chosen))]),
            ("training", train),
            (
                "training of the plain VoxelMorph",
                [*train, *as_words({**self.plain, "output_dir": plain.parent / "eval", "ckpt_dir": plain})],
            ),
            ("registration", self._register("affine,coarse,deform,instance", OURS, embedder, places.models, chosen)),
            (
                "registration by the plain VoxelMorph",
                self._register("affine,deform", PLAIN, embedder, plain, {**chosen, **self.plain}),
            ),
            ("registration by SimpleITK", self._itk()),
        ]

    def conclude(self, promised: bool) -> None:
        """See `DemoPlan`."""
        from monai_ext.tables import write_table

        places = self.places
        table = self._table()
        write_table(places.run / TABLE, ("method", *SHOWN), table)
        print(f"  {'after':30s} " + " ".join(f"{name:>15s}" for name in SHOWN))
        for line in table:
            print(f"  {line['method']:30s} " + " ".join(f"{line[name]:15.3f}" for name in SHOWN))
        print(f"  table       {places.run / TABLE}")
        print(f"  picture     {places.run / OURS / 'picture.png'}")
        print(f"  transform   {places.run / OURS / 'transform.h5'} (for ITK and 3D Slicer)")
        if promised:
            self._compare(self._record(OURS))

    def outcome(self) -> Outcome:
        """See `DemoPlan`."""
        run = self.places.run
        text = "{error_mm:.2f} mm, Dice {dice_grey:.3f} / {dice_white:.3f}, {seconds:.1f} s"
        return Outcome(
            {f"mean error after: {line['method']}": text.format(**line) for line in self._table()},
            {"table": run / TABLE, "transform": run / OURS / "transform.h5"},
            {"both scans, before and after": run / OURS / "picture.png"},
        )

    def _table(self) -> list[dict[str, Any]]:
        """Return a line for each method."""
        records = {folder: self._record(folder) for folder in (OURS, PLAIN, ITK)}
        return [_filled(row, records[row.folder]) for row in ROWS]

    def _record(self, folder: str) -> dict[str, Any]:
        return read_json(self.places.run / folder / RECORD)

    @property
    def _plain_models(self) -> Path:
        return self.places.run / "plain" / "models"

    def _embedder_run(self, scans: list[str], chosen: Mapping[str, object]) -> list[str]:
        """Train the embedder as its own demo does, with those of the user's knobs that it has."""
        known = read_json(self.embedding.bundle / "configs" / "train.json")
        own = {name: value for name, value in chosen.items() if name in known}
        return self.embedding.bundle_run("training", ["train.json"], [*scans, *as_words(own)])

    def _register(
        self, steps: str, folder: str, embedder: Path, models: Path, chosen: Mapping[str, object]
    ) -> list[str]:
        """Return what the command is told: each bundle takes the knobs of its own ``inference.json``."""
        own = {**self.embedding.read_wishes(), **chosen}
        ours = {**self.wishes, **chosen, "spatial_size": None}  # parts are for training; a pair is registered whole
        spoken = _known(own, self.embedding.bundle)
        spoken |= {f"deform_{name}": value for name, value in _known(ours, self.places.bundle).items()}
        return [
            *("-m", "monai_ext", "register", *self._pair(folder), "--steps", steps),
            *("--bundle_root", str(self.embedding.bundle), "--ckpt_path", str(embedder)),
            *("--deform_bundle", str(self.places.bundle), "--deform_ckpt", str(models / "model.pt")),
            *as_words({"body_threshold": own["body_threshold"], **spoken}),
        ]

    def _itk(self) -> list[str]:
        return ["-m", "monai_ext.commands._itk_rival", *self._pair(ITK), "--body_threshold", "50"]  # 5 % of full scale

    def _pair(self, folder: str) -> list[str]:
        pair = self.places.data / "followup"
        files = {"fixed": "baseline", "moving": "followup", "fixed_label": "baseline_label"}
        files |= {"moving_label": "followup_label"}
        words = as_words({name: pair / f"{file}.nii.gz" for name, file in files.items()})
        return [*words, "--points", str(pair / "points.csv"), "--output", str(self.places.run / folder)]

    def _compare(self, record: Mapping[str, Any]) -> None:
        """Fail if an error is more than the README promises."""
        for step, most in self.expected.items():
            error = _step(record, step)["tre_mm"]["mean"]
            print(f"  {step}: {error:.2f} mm (promised: at most {most:.2f})")
            if error > most:
                raise InputError(
                    f"mean error {error:.2f} mm after {step} is above the promised {most:.2f}; please report this as "
                    "a bug."
                )


def _known(knobs: Mapping[str, object], bundle: Path) -> dict[str, object]:
    """Return the knobs that a bundle's ``inference.json`` has."""
    known = read_json(bundle / "configs" / "inference.json")
    return {name: value for name, value in knobs.items() if name in known and name[0] != "_"}


def _filled(row: _Row, record: Mapping[str, Any]) -> dict[str, Any]:
    step = _step(record, row.step)
    return {
        "method": row.title,
        "error_mm": step["tre_mm"]["mean"],
        "largest_mm": step["tre_mm"]["max"],
        "dice_grey": step["dice"][GREY],
        "dice_white": step["dice"][WHITE],
        "folding_percent": step["folding_percent"],
        "seconds": round(sum(record["costs"][name]["seconds"] for name in row.costs), 1),
    }


def _step(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(step for step in record["steps"] if step["step"] == name)
    return found
