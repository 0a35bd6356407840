# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: it draws, moves, sorts, filters, asks no network and runs no foreign code."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.report import build_report
from tests.report.example_run import edit_json, write_run
from tests.report.headless import INSTALL, Browser, headless_browser
from tests.report.test_page import write_evil

PIXELS = "return document.getElementById('overlaid').toDataURL()"
POSITION = "return document.getElementById('position').textContent"
DRAWN = "return document.getElementById('viewer').dataset.drawn"
CASES = (
    "return [...document.querySelectorAll('.cases tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with headless_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("prompted"), prompts=True)


def write_page(folder: Path, flat: bool = False, prompts: bool = False) -> Path:
    page = folder / "report.html"
    page.write_text(build_report(*write_run(folder, flat=flat, prompts=prompts)).html, encoding="utf-8")
    return page


def errors(browser: Browser) -> list[str]:
    return [entry["message"] for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_page_draws_without_errors_and_asks_no_network(browser: Browser, volumes: Path) -> None:
    browser.logs("browser")
    browser.logs("performance")
    browser.open(volumes)
    assert errors(browser) == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.logs("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # the browser's own start page, of chrome: and data: addresses, may still be loading
    assert [url for url in asked if not url.startswith(("data:", "chrome:"))] == [volumes.as_uri()]
    broken = "return [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    assert browser.run(broken) == 0


def test_slider_changes_the_slice_and_the_picture(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    assert browser.run(POSITION) == "7 / 14: slice 7 of 14, z = 15.0 mm"
    before = browser.run(PIXELS)
    browser.type("#slice", "right")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '0/7/error'")
    assert browser.run(POSITION) == "8 / 14: slice 8 of 14, z = 17.5 mm"
    assert browser.run(PIXELS) != before
    browser.type("#slice", "left")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '0/6/error'")
    assert browser.run(PIXELS) == before


def test_keys_on_the_picture_change_slice_and_overlay(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    seen = {}
    for key, state in (
        ("n", "0/6/none"),
        ("t", "0/6/truth"),
        ("p", "0/6/prediction"),
        ("e", "0/6/error"),
        ("end", "0/13/error"),
    ):
        browser.type("#stage", key)
        browser.wait_for(f"return (() => {{ {DRAWN} }})() === '{state}'")
        seen[state] = browser.run(PIXELS)
    assert len(set(seen.values())) == 5


def test_truth_is_painted_where_the_truth_is(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    browser.type("#stage", "t")
    browser.run("const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input'))")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '0/6/truth'")
    colour = (
        "const c = document.getElementById('overlaid');"
        "return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3)"
    )
    browser.wait_for(f"return String((() => {{ {colour} }})()) === '86,180,233'")  # class 1 is in the middle


def test_other_view_has_its_own_slices(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    browser.run("const v = document.getElementById('view'); v.value = 1; v.dispatchEvent(new Event('change'))")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '1/11/error'")
    assert browser.run(POSITION) == "12 / 24: slice 12 of 24, y = 11.0 mm"
    assert browser.run("return [...document.querySelectorAll('.edge')].map(e => e.textContent).join('')") == "RLSI"


def test_pictures_are_paged_through(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(tmp_path, flat=True))
    browser.type("#stage", "home")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '0/0/error'")
    assert browser.run(POSITION) == "1 / 3: case_2"


# the edges, in pixels of the screen, of what is painted in colour, and of the box
PAINTED = """
const c = document.getElementById('overlaid'), seen = c.getBoundingClientRect();
const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
const scale = Math.min(seen.width / c.width, seen.height / c.height);
const [x0, y0] = [(seen.width - c.width * scale) / 2 + seen.left, (seen.height - c.height * scale) / 2 + seen.top];
const [xs, ys] = [[], []];
for (let i = 0; i < data.length; i += 4) {
  const [red, green, blue] = data.slice(i, i + 3);
  if (Math.max(red, green, blue) - Math.min(red, green, blue) >= 40) {
    xs.push((i / 4) % c.width);
    ys.push(Math.floor(i / 4 / c.width));
  }
}
const edge = (values, far) => values.reduce((a, b) => (far ? Math.max(a, b + 1) : Math.min(a, b)));
const [left, top, right, bottom] = [edge(xs), edge(ys), edge(xs, true), edge(ys, true)].map((value) => value * scale);
return [left + x0, top + y0, right + x0, bottom + y0, c.width / 20 * scale];
"""
BOX = """
const box = document.querySelector('#marks .dash').getBoundingClientRect();
return [box.left, box.top, box.right, box.bottom];
"""
PROMPT = "return document.getElementById('used-prompt').textContent"
BOXES = "return document.querySelectorAll('#marks .dash').length"


def go_to(browser: Browser, view: int, index: int, layer: str) -> None:
    """Choose a view, a slice and an overlay, and wait until they are drawn."""
    browser.run(f"const v = document.getElementById('view'); v.value = {view}; v.dispatchEvent(new Event('change'))")
    browser.run(f"document.querySelector('[name=layer][value={layer}]').click()")
    browser.run(f"const s = document.getElementById('slice'); s.value = {index}; s.dispatchEvent(new Event('input'))")
    browser.wait_for(f"return (() => {{ {DRAWN} }})() === '{view}/{index}/{layer}'")


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("index", [4, 6, 10])
def test_box_follows_the_slice(browser: Browser, prompted: Path, index: int, width: int) -> None:
    browser.open(prompted, width=width)
    browser.run("const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input'))")
    go_to(browser, 3, index, "prediction")  # of the best case, whose boxes end inside the slice
    *painted, voxel = browser.run(PAINTED)  # type: ignore[misc]
    wider = [painted[0] - voxel, painted[1] - voxel, painted[2] + voxel, painted[3] + voxel]  # as the run wrote it
    assert browser.run(BOX) == pytest.approx(wider, abs=3)
    assert browser.run(PROMPT) == "self-prompt box"


def test_slice_without_a_prompt_says_so(browser: Browser, prompted: Path) -> None:
    browser.open(prompted)
    go_to(browser, 3, 0, "error")
    assert browser.run(BOXES) == 0
    assert browser.run(PROMPT) == "no prompt (first mask empty)"
    spoken = "slice 1 of 14, z = 0.0 mm, no prompt (first mask empty)"
    assert browser.run("return document.getElementById('slice').getAttribute('aria-valuetext')") == spoken
    assert browser.run("return document.getElementById('overlaid').ariaLabel") == f"image with error: {spoken}"
    heights = "return [...document.querySelectorAll('#prompted rect')].map(bar => Number(bar.getAttribute('height')))"
    assert browser.run(heights) == [0, 0, *[1] * 11, 0]


def test_other_plane_has_no_box(browser: Browser, prompted: Path) -> None:
    browser.open(prompted)
    go_to(browser, 1, 11, "error")
    assert browser.run(BOXES) == 0
    assert browser.run(PROMPT) == ""
    assert browser.run("return document.getElementById('show-prompt').disabled") is True


def test_key_and_box_hide_the_prompt(browser: Browser, prompted: Path) -> None:
    browser.open(prompted)
    shown = "return document.getElementById('marks').checkVisibility()"
    legend = "return document.querySelector('#slice-by-slice [data-legend=prompt]').checkVisibility()"
    assert (browser.run(shown), browser.run(legend)) == (True, True)
    browser.type("#stage", "b")
    browser.wait_for(f"return !(() => {{ {shown} }})()")
    assert browser.run(legend) is False
    browser.click("#show-prompt")
    browser.wait_for(f"return (() => {{ {shown} }})()")


def test_prompts_are_printed(browser: Browser, tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path, prompts=True)
    kinds = [
        {"index": 5, "prompt": "box", "box": [1, 1, 9, 9]},
        {"index": 6, "prompt": "points", "points": [[9, 9, 1]]},
    ]
    edit_json(output / "predictions" / "case_1_prompts.json", slices=kinds)
    page = tmp_path / "report.html"
    page.write_text(build_report(bundle, output).html, encoding="utf-8")
    browser.open(page, width=720)  # A4 without margins at 96 pixels an inch
    browser.devtools("Emulation.setEmulatedMedia", media="print", features=[])
    lines = "[...document.querySelectorAll('.example .dash, .example .stroke')].map(e => getComputedStyle(e).stroke)"
    found = browser.run(f"return {lines}")
    over = browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth")
    browser.devtools("Emulation.setEmulatedMedia", media="", features=[])
    assert found == ["rgb(255, 255, 255)"] * 6
    assert over == 0


def test_page_with_prompts_has_no_errors_and_fits(browser: Browser, prompted: Path) -> None:
    browser.logs("browser")
    browser.open(prompted, width=360)
    assert errors(browser) == []
    assert browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    twice = "const all = [...document.querySelectorAll('[id]')].map(e => e.id); return all.length - new Set(all).size"
    assert browser.run(twice) == 0


def test_colours_follow_the_system_and_the_button(browser: Browser, volumes: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(volumes, dark=True)
    browser.run("localStorage.clear()")
    browser.open(volumes, dark=True)
    dark = browser.run(ground)
    browser.open(volumes)
    light = browser.run(ground)
    assert light != dark
    browser.click("#theme")
    assert browser.run(ground) == dark
    browser.open(volumes)
    assert browser.run(ground) == dark  # the choice is kept
    browser.run("localStorage.clear()")


def test_print_is_light_even_when_the_screen_is_dark(browser: Browser, volumes: Path) -> None:
    browser.open(volumes, dark=True)
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.devtools("Emulation.setEmulatedMedia", media="print", features=scheme)
    colour = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.devtools("Emulation.setEmulatedMedia", media="", features=[])
    assert colour == "rgb(255, 255, 255)"


def test_nothing_is_cut_off_on_paper(browser: Browser, volumes: Path) -> None:
    browser.open(volumes, width=720)  # A4 without margins at 96 pixels an inch
    browser.devtools("Emulation.setEmulatedMedia", media="print", features=[])
    over = browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth")
    browser.devtools("Emulation.setEmulatedMedia", media="", features=[])
    assert over == 0


def test_table_sorts_with_undefined_values_last(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    column = "return [...document.querySelectorAll('.cases tbody tr')].map(r => r.cells[7].textContent)"
    header = ".cases thead th:nth-child(8) button"
    browser.click(header)
    assert browser.run(column) == ["2.00", "3.00", "3.00", "4.00", "–", "–"]
    browser.click(header)
    assert browser.run(column) == ["4.00", "3.00", "3.00", "2.00", "–", "–"]
    assert browser.run("return document.querySelector('.cases thead th:nth-child(8)').ariaSort") == "descending"


def test_table_filters(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    browser.type('[data-filter="text"]', "S01")
    assert browser.run(CASES) == ["case_1", "case_1"]
    choose = "const s = document.querySelector('[data-filter=class]'); s.value = 'inner';"
    browser.run(f"{choose} s.dispatchEvent(new Event('input'))")
    assert browser.run(CASES) == ["case_1"]
    assert browser.run("return document.querySelector('[data-count]').textContent") == "1 of 6 rows"


def test_curve_reads_values_and_has_a_log_axis(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    browser.type(".chart > svg", "right")
    assert browser.run("return document.querySelector('.readout').textContent") == "epoch 1: train_loss 2"
    browser.click(".log-toggle")
    scales = "[...document.querySelector('.chart').querySelectorAll('.scale')]"
    shown = f"return {scales}.map(g => getComputedStyle(g).display)"
    assert browser.run(shown) == ["none", "inline"]


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_page_never_scrolls_sideways(browser: Browser, volumes: Path, width: int) -> None:
    browser.open(volumes, width=width)
    assert browser.run("return innerWidth") == width
    assert browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0


def test_every_field_has_a_label(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    bare = (
        "return [...document.querySelectorAll('input, select, button')]"
        ".filter(e => !e.ariaLabel && !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert browser.run(bare) == []


def test_screenshot_shows_colours(browser: Browser, volumes: Path) -> None:
    browser.open(volumes)
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)
    assert pixels.shape[0] > 3000
    assert (np.ptp(pixels, axis=2) > 60).sum() > 20_000  # overlays and curves, not a white page


def test_text_from_files_never_runs(browser: Browser, tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    write_evil(bundle, output)
    page = tmp_path / "report.html"
    page.write_text(build_report(bundle, output).html, encoding="utf-8")
    browser.logs("browser")
    browser.open(page)
    assert browser.run("return typeof window.owned") == "undefined"
    assert errors(browser) == []
    assert "<script>window.owned=1</script>" in str(browser.run("return document.querySelector('h1').textContent"))


def test_policy_stops_scripts_that_get_in_all_the_same(browser: Browser, volumes: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    text = volumes.read_text(encoding="utf-8").replace("<footer>", "<script>window.owned = 1</script><footer>")
    page.write_text(text, encoding="utf-8")
    browser.open(page)
    assert browser.run("return typeof window.owned") == "undefined"


def test_missing_browser_fails_where_one_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MONAI_EXT_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match=INSTALL), headless_browser(tmp_path):
        pass
    monkeypatch.setenv("MONAI_EXT_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match=INSTALL), headless_browser(tmp_path):
        pass
