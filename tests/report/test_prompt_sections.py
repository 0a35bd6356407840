# SPDX-License-Identifier: Apache-2.0
"""What the page says of prompts: how many slices used which, what they are worth, where they came from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from monai_ext.report import build_report
from tests.report.example_run import edit_json, write_run
from tests.report.test_page import EVIL, Elements


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(*write_run(tmp_path_factory.mktemp("run"), prompts=True)).html


def section(page: str, name: str) -> str:
    found = re.search(f'<section id="{name}">.*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def plain(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def test_page_says_how_many_slices_used_which_prompt(page: str) -> None:
    text = plain(section(page, "prompts"))
    assert "self-prompt box 33 slices (79%)" in text
    assert "no prompt (first mask empty) 9 slices (21%)" in text
    assert "case_2 0.540 14 11 3 slices with a prompt: 3 to 13 of 14" in text


def test_each_case_has_a_strip_of_its_slices(page: str) -> None:
    strips = re.findall(r'<svg viewBox="0 0 14 1"[^>]*class="slice-strip">.*?</svg>', page)
    assert len(strips) == 3
    assert all('<rect x="2" y="0" width="11" height="1">' in strip for strip in strips)


def test_worth_of_prompts_is_compared(page: str) -> None:
    text = plain(section(page, "prompts"))
    assert text.index("first mask no prompt") < text.index("self-prompted (this run)") < text.index("true box the box")
    assert "−0.069 higher in 0, lower in 3 of 3" in text
    assert "higher in 3, lower in 0 of 3" in text
    assert "which nobody has in practice" in text
    assert len(re.findall(r'class="mean"', section(page, "prompts"))) == 3


def test_pictures_say_their_prompt(page: str) -> None:
    texts = [attributes["alt"] or "" for attributes in Elements(page).named("img")]
    shown = [text for text in texts if text.startswith("case_0:")]
    words = "self-prompt box: columns 0 to 16, rows 3 to 19"
    assert shown == [
        f"case_0: the image, {words}",
        "case_0: truth over the image",
        f"case_0: prediction over the image, {words}",
        "case_0: error over the image",
    ]
    assert '<b>prompt</b><span class="key">' in page


def test_page_says_that_the_network_prompted_itself(page: str) -> None:
    assert "The network prompted itself" in section(page, "conventions")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("null", "the network's first mask was scored"),
        ("truth", "Prompts were made from the truth"),
        ("given boxes", "Prompts came from: given boxes."),
    ],
)
def test_page_says_where_prompts_came_from(tmp_path: Path, source: str, text: str) -> None:
    bundle, output = write_run(tmp_path)
    edit_json(output / "summary.json", conventions={"prompt_source": source})
    shown = section(build_report(bundle, output).html, "conventions")
    assert text in shown.replace("&#x27;", "'")


def test_run_without_prompts_has_nothing_about_them(tmp_path: Path) -> None:
    page = build_report(*write_run(tmp_path)).html
    assert section(page, "prompts") == ""
    assert not {"marks", "slice-strip"} & {attributes.get("class") for _, attributes in Elements(page).found}
    assert 'id="show-prompt"' not in page


def test_pictures_are_counted_as_images(tmp_path: Path) -> None:
    text = plain(section(build_report(*write_run(tmp_path, flat=True, prompts=True)).html, "prompts"))
    assert "self-prompt box 3 images (100%)" in text


def test_every_picture_names_its_prompt_when_they_differ(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, flat=True, prompts=True)
    edit_json(output / "predictions" / "case_1_prompts.json", slices=[{"index": 0, "prompt": "null", "box": None}])
    text = plain(section(build_report(bundle, output).html, "prompts"))
    assert "case_1 0.694 no prompt (first mask empty)" in text
    assert "case_0 0.847 self-prompt box" in text


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"slices": 3}', '{"slices": [{"index": 0}]}', "[" * 100_000])
def test_broken_record_costs_only_its_own_boxes(tmp_path: Path, content: str) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    (output / "predictions" / "case_1_prompts.json").write_text(content, encoding="utf-8")
    page = build_report(bundle, output).html
    assert "case_1: case_1_prompts.json is not" in plain(section(page, "prompts"))
    assert "1 of 3 cases have no record of prompts." in page
    assert "No prompt is drawn: case_1_prompts.json is not" in section(page, "examples")
    assert "case_0: the image, self-prompt box" in page


def test_many_broken_records_do_not_fill_the_page(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, cases=9, flat=True, prompts=True)
    for path in (output / "predictions").glob("*.json"):
        path.write_text("{", encoding="utf-8")
    assert "and 4 more" in section(build_report(bundle, output).html, "prompts")


def test_text_of_a_record_never_becomes_markup(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    slices = [{"index": 6, "prompt": EVIL, "box": [1, 1, 5, 5]}]
    edit_json(output / "predictions" / "case_1_prompts.json", slices=slices, prompt_source=EVIL)
    edit_json(output / "predictions" / "case_2_prompts.json", plane=EVIL)
    edit_json(output / "first_mask" / "summary.json", conventions={"prompt_source": EVIL})
    page = build_report(bundle, output).html
    elements = Elements(page)
    assert elements.open == []
    assert "window.owned=1" in section(page, "prompts")
    assert "<script>window" not in page
    assert all("onerror" not in attributes for _, attributes in elements.found)


def test_variants_are_named_by_their_source(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    shutil.move(output / "true_box", output / "again")
    edit_json(output / "again" / "summary.json", conventions={"prompt_source": "points"})
    shutil.copytree(output / "first_mask", output / "other")
    edit_json(output / "other" / "summary.json", conventions={})
    edit_json(output / "first_mask" / "summary.json", conventions={})
    names = re.findall(r'<tr><th scope="row">(.*?)</th><td>', section(build_report(bundle, output).html, "prompts"))
    assert [plain(name).strip() for name in names] == ["first mask", "self-prompted (this run)", "again (given points)"]


def test_variant_without_cases_shows_its_mean_only(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    (output / "true_box" / "cases.csv").unlink()
    text = plain(section(build_report(bundle, output).html, "prompts"))
    assert re.search(r"in practice 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] 6 – ", text)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"mean_foreground": {"dice": {"mean": null}}}'])
def test_broken_variants_are_left_out(tmp_path: Path, content: str) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    (output / "first_mask" / "summary.json").write_text(content, encoding="utf-8")
    (output / "true_box" / "summary.json").write_text(content, encoding="utf-8")
    assert "What the prompt is worth" not in build_report(bundle, output).html


def test_counts_of_the_evaluation_are_shown_where_no_prediction_was_kept(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    edit_json(output / "summary.json", conventions={"prompt_source": "self", "prompts": {"self": 31, "null": 12}})
    text = plain(section(build_report(bundle, output).html, "conventions"))
    assert "Slices by their prompt self-prompt box: 31, no prompt (first mask empty): 12" in text
