# SPDX-License-Identifier: Apache-2.0
"""The page as text: everything is in it, nothing comes from outside, nothing that was read can become code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from monai_ext.report import build_report
from tests.report.example_run import edit_json, write_run

VOID = {"img", "input", "br", "hr", "meta", "link"}
EVIL = "<script>window.owned=1</script>\"'><img src=x onerror=window.owned=1>&amp;"


class Elements(HTMLParser):
    """Collects elements and checks that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


@pytest.fixture(scope="module")
def volume_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(*write_run(tmp_path_factory.mktemp("run"))).html


def test_every_element_is_closed(volume_page: str) -> None:
    assert Elements(volume_page).open == []


def test_nothing_is_loaded_from_outside(volume_page: str) -> None:
    elements = Elements(volume_page)
    sources = [attributes.get("src") for attributes in elements.named("img", "script", "iframe", "source")]
    assert all(source is None or source.startswith("data:") for source in sources)
    assert [attributes["href"] for attributes in elements.named("link")] == ["data:,"]
    assert "url(" not in volume_page
    assert "@import" not in volume_page


def test_policy_forbids_the_network_and_foreign_scripts(volume_page: str) -> None:
    script = re.findall(r"<script>(.*?)</script>", volume_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in volume_page


def test_every_picture_has_a_text(volume_page: str) -> None:
    assert all(attributes.get("alt") for attributes in Elements(volume_page).named("img"))


@pytest.mark.parametrize(
    "text",
    [
        "spheres",
        "0.2.0",
        "two cores",
        "learning_rate",
        "2 min 0 s",
        "<h2>Sites</h2>",
        "site 1",
        "best",
        "worst",
        "Apache License, Version 2.0",
        "BSD-3-Clause",
        "sam_vit_b.pth",
        "0123456789ab",
        "Synthetic spheres, free of rights.",
        "https://arxiv.org/abs/0000.00000",
        "No prompts were used",
        "1\u202f000 bootstrap samples",
        "We ran the bundle spheres 0.2.0 with MONAI 1.6.1 and PyTorch 2.9 (seed 7, 4 epochs).",
    ],
)
def test_page_says(volume_page: str, text: str) -> None:
    assert text in volume_page


def test_export_says_which_file_differs(volume_page: str) -> None:
    assert re.search(r"model\.ts</td><td>2\.0e-06 <span class=\"badge good\">equal", volume_page)
    assert re.search(r"model\.onnx</td><td>5\.0e-01 <span class=\"badge bad\">differs", volume_page)


def test_each_example_has_four_panels(volume_page: str) -> None:
    panels = [attributes["alt"] for attributes in Elements(volume_page).named("img")]
    assert [panel for panel in panels if panel and panel.startswith("case_2:")] == [
        "case_2: the image",
        "case_2: truth over the image",
        "case_2: prediction over the image",
        "case_2: error over the image",
    ]


def test_viewer_holds_every_slice_with_its_overlays(volume_page: str) -> None:
    views = _views(volume_page)
    assert [view["title"] for view in views] == [
        "case_1, axial (median)",
        "case_1, coronal (median)",
        "case_1, sagittal (median)",
        "case_0, axial (best)",
        "case_2, axial (worst)",
    ]
    assert [view["count"] for view in views[:3]] == [14, 24, 20]
    assert all(
        view[layer].startswith("data:image/") for view in views for layer in ("image", "truth", "prediction", "error")
    )
    assert views[0]["captions"][0] == "slice 1 of 14, z = 0.0 mm"


def test_pictures_are_paged_through_case_by_case(tmp_path: Path) -> None:
    views = _views(build_report(*write_run(tmp_path, flat=True)).html)
    assert len(views) == 1
    assert views[0]["captions"] == ["case_2", "case_1", "case_0"]  # the lowest Dice first
    assert views[0]["profile"] == sorted(views[0]["profile"], reverse=True)


def test_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = write_run(tmp_path)
    assert build_report(*folders).html == build_report(*folders).html


def test_many_cases_stay_small(tmp_path: Path) -> None:
    assert len(build_report(*write_run(tmp_path, flat=True, cases=60)).html) < 2_000_000


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("eval/run.json", "monai.bundle run training"),
        ("eval/history.json", "monai.bundle run training"),
        ("eval/overlays", "monai.bundle run training"),
        ("eval/cases.csv", "monai.bundle run evaluating"),
        ("eval/summary.json", "monai.bundle run evaluating"),
        ("models/parity.json", "monai_ext export"),
        ("docs/data_license.txt", "docs/data_license.txt"),
        ("LICENSE", "licence of the code"),
        ("large_files.yml", "files of weights"),
        ("configs/metadata.json", "configs/metadata.json"),
    ],
)
def test_missing_file_is_named_with_its_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    bundle, output = write_run(tmp_path)
    path = bundle / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    made = build_report(bundle, output)
    notice = re.search(rf"<strong>{re.escape(path.name)}</strong> is missing\. .*?</div>", made.html)
    assert notice is not None
    assert remedy in notice[0]
    assert list(made.problems) == [path.name]
    assert "<h2>Licences</h2>" in made.html


@pytest.mark.parametrize("name", ["run.json", "history.json", "summary.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"'])
def test_broken_json_is_named(tmp_path: Path, name: str, content: str) -> None:
    bundle, output = write_run(tmp_path)
    (output / name).write_text(content, encoding="utf-8")
    assert f"<strong>{name}</strong>" in build_report(bundle, output).html


@pytest.mark.parametrize(
    "content",
    [
        {"classes": "none", "mean_foreground": 3, "sites": [1], "conventions": None},
        {"classes": [{"class": "x", "metrics": {"dice": None}}], "cases": "many"},
        {"classes": [{"class": 1, "metrics": {"dice": {"mean": float("nan"), "low": None}}}], "sites": {"a": None}},
    ],
)
def test_unexpected_values_do_not_stop_the_report(tmp_path: Path, content: dict[str, object]) -> None:
    bundle, output = write_run(tmp_path)
    (output / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    assert Elements(build_report(bundle, output).html).open == []


def test_empty_bundle_still_gives_a_page(tmp_path: Path) -> None:
    made = build_report(tmp_path, tmp_path / "eval")
    assert made.cases == 0
    assert len(made.problems) == 10


def test_run_without_predictions_says_so(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    table = output / "cases.csv"
    table.write_text(re.sub(r",[^,]*predictions/[^,]*,", ",,", table.read_text(encoding="utf-8")), encoding="utf-8")
    page = build_report(bundle, output).html
    assert "were not written, so errors cannot be drawn" in page
    assert all("error" not in view and "truth" in view for view in _views(page))


def test_image_that_cannot_be_read_costs_only_its_own_pictures(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    (tmp_path / "case_1.nii.gz").write_bytes(b"not an image")
    (tmp_path / "case_2.nii.gz").unlink()
    page = build_report(bundle, output).html
    assert "case_1.nii.gz: cannot be read" in page
    assert "case_2.nii.gz: file not found." in page
    assert [view["title"] for view in _views(page)] == ["case_0, axial (best)"]


def test_label_of_another_grid_is_not_drawn(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    shutil.copy(write_run(tmp_path / "other", flat=True)[0].parent / "case_1.png", tmp_path / "case_1_label.nii.gz")
    assert "There is no truth: case_1_label.nii.gz: cannot be read" in build_report(bundle, output).html


def test_prompts_from_the_truth_are_warned_of(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    edit_json(output / "summary.json", conventions={"prompt_source": "box of the ground truth"})
    assert "Prompts were made from the truth" in build_report(bundle, output).html


def test_failed_run_is_marked(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    edit_json(output / "run.json", status="failed", finished=None)
    assert '<span class="badge bad">failed</span>' in build_report(bundle, output).html


def test_paths_of_scans_stay_private(volume_page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert str(tmp_path_factory.getbasetemp()) not in volume_page


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    write_evil(bundle, output)
    page = build_report(bundle, output).html
    elements = Elements(page)
    assert elements.open == []
    assert "window.owned=1" in page
    assert "<script>window" not in page
    assert all("onerror" not in attributes and attributes.get("src") != "x" for _, attributes in elements.found)
    assert not [attributes for attributes in elements.named("a") if (attributes["href"] or "").startswith("javascript")]


def write_evil(bundle: Path, output: Path) -> None:
    """Put markup wherever a user's text can come from."""
    table = output / "cases.csv"
    quoted = EVIL.replace('"', '""')
    text = table.read_text(encoding="utf-8").replace("case_1,", f'"{quoted}",').replace("site 0", f'"{quoted}"')
    table.write_text(text.replace(",inner,", f',"{quoted}",').replace("s01", f'"{quoted}"'), encoding="utf-8")
    edit_json(
        output / "run.json",
        bundle=EVIL,
        status=EVIL,
        command=EVIL,
        knobs={EVIL: EVIL},
        versions={EVIL: EVIL},
        hardware={"cpu": EVIL, "gpus": [EVIL]},
    )
    edit_json(output / "history.json", epochs=[{"epoch": 1, f"val_{EVIL}": 0.5, "train_loss": 1.0}])
    edit_json(output / "summary.json", conventions={EVIL: EVIL, "prompt_source": EVIL}, sites={EVIL: {"dice": 0.5}})
    edit_json(bundle / "models" / "parity.json", image=EVIL, created=EVIL, onnx={"file": EVIL, "sha256": EVIL})
    edit_json(bundle / "configs" / "metadata.json", description=EVIL, references=[EVIL], data_source=EVIL)
    (bundle / "LICENSE").write_text(EVIL, encoding="utf-8")
    (bundle / "docs" / "data_license.txt").write_text(EVIL, encoding="utf-8")
    entry = {"path": EVIL, "url": "javascript:window.owned=1", "licence": EVIL}
    (bundle / "large_files.yml").write_text(json.dumps({"large_files": [entry]}), encoding="utf-8")


def _views(page: str) -> list[dict]:
    block = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block[1]) if block else []
