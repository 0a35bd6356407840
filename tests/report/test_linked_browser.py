# SPDX-License-Identifier: Apache-2.0
"""The page of linked views in a real browser: a point is chosen, and both scans go there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_ext.report.linked_page import linked_page
from tests.report.headless import Browser, headless_browser
from tests.report.linked_example import linked_scans
from tests.report.test_browser import errors
from tests.report.test_page import EVIL

SHOWN = "return document.getElementById('linked').dataset.shown"
PICTURES = "return [...document.querySelectorAll('.planes img')].map(image => image.src)"
CAPTIONS = "return [...document.querySelectorAll('.planes figcaption')].map(caption => caption.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with headless_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linked")
    groups = [linked_scans(folder, title="first follow-up"), linked_scans(folder, title="second follow-up")]
    path = folder / "report.html"
    path.write_text(linked_page("Tracked lesions", "All of them.", groups, "track", {"mode": "nn"}), encoding="utf-8")
    return path


def text(browser: Browser, identifier: str) -> object:
    return browser.run(f"return document.getElementById('{identifier}').textContent")


def wait_until_shown(browser: Browser, number: int) -> None:
    browser.wait_for(f"return (() => {{ {SHOWN} }})() === '{number}'")


def test_clicking_a_point_moves_both_scans_and_changes_the_numbers(browser: Browser, linked: Path) -> None:
    browser.logs("browser")
    browser.open(linked)
    before = browser.run(PICTURES)
    assert len(set(before)) == 6  # type: ignore[arg-type]
    browser.click("#point-1")
    wait_until_shown(browser, 1)
    after = browser.run(PICTURES)
    assert all(old != new for old, new in zip(before, after, strict=True))  # type: ignore[call-overload]
    assert (text(browser, "chosen"), text(browser, "chosen-status")) == ("two", "uncertain")
    assert text(browser, "facts") == "score0.112notetwo"
    assert browser.run("return document.getElementById('chosen-status').className") == "badge open"
    spoken = browser.run("return document.querySelector('#view-1-coronal img').alt")
    assert str(spoken).startswith("first follow-up, two: coronal slice ")
    broken = "return [...document.images].filter(i => i.checkVisibility() && i.naturalWidth === 0).length"
    browser.wait_for(f"return (() => {{ {broken} }})() === 0")
    assert errors(browser) == []


def test_arrow_keys_go_through_the_list_and_stop_at_its_ends(browser: Browser, linked: Path) -> None:
    browser.open(linked)
    for keys, shown in (("\ue013", 0), ("\ue015", 1), ("\ue015", 2), ("\ue015", 3), ("end", 5), ("\ue015", 5)):
        browser.type("#points", keys)
        wait_until_shown(browser, shown)
        active = browser.run("return document.getElementById('points').getAttribute('aria-activedescendant')")
        assert active == f"point-{shown}"
    assert text(browser, "scan-1") == "second follow-up"
    chosen = "return [...document.querySelectorAll('[aria-selected=true]')].map(option => option.id)"
    assert browser.run(chosen) == ["point-5"]


def test_a_point_without_a_place_in_the_second_scan_says_so(browser: Browser, linked: Path) -> None:
    browser.open(linked)
    browser.click("#point-2")
    wait_until_shown(browser, 2)
    visible = "return [...document.querySelectorAll('.planes img')].map(image => image.checkVisibility())"
    assert browser.run(visible) == [True] * 3 + [False] * 3
    assert browser.run("return document.querySelector('[data-side=\"1\"] .nowhere').checkVisibility()") is True
    assert browser.run(CAPTIONS)[3:] == ["axial ", "coronal ", "sagittal "]  # type: ignore[index]


def test_the_cross_is_drawn_in_the_middle_of_the_picture(browser: Browser, linked: Path) -> None:
    browser.open(linked)
    middles = browser.run(
        "return [...document.querySelectorAll('#view-0-axial img, #view-0-axial .cross')].map(part => {"
        "const box = part.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; })"
    )
    assert middles[0] == pytest.approx(middles[1], abs=0.6)  # type: ignore[index]


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(browser: Browser, linked: Path, width: int) -> None:
    browser.open(linked, width=width)
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth") is True


def test_print_shows_the_chosen_point_and_all_numbers(browser: Browser, linked: Path) -> None:
    browser.open(linked)
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    shown = "return ['#points', '#view-0-axial img', '.numbers'].map(s => document.querySelector(s).checkVisibility())"
    assert browser.run(shown) == [False, True, True]
    browser.devtools("Emulation.setEmulatedMedia", media="")


def test_names_that_are_html_never_run(browser: Browser, tmp_path: Path) -> None:
    scans = linked_scans(tmp_path, names=(EVIL, "</script><b>", "three"), title=EVIL)
    path = tmp_path / "report.html"
    path.write_text(linked_page(EVIL, EVIL, [scans], "match", {EVIL: EVIL}, [EVIL]), encoding="utf-8")
    browser.logs("browser")
    browser.open(path)
    browser.click("#point-1")
    browser.click("#point-0")
    assert browser.run("return typeof window.owned") == "undefined"
    assert text(browser, "chosen") == EVIL
    assert text(browser, "scan-1") == EVIL
    assert errors(browser) == []
