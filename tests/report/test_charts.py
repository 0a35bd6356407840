# SPDX-License-Identifier: Apache-2.0
"""Curves: what the axes show, and when a logarithmic one is offered."""

from __future__ import annotations

import re

from monai_ext.report.charts import line_chart
from monai_ext.report.markup import Markup, escape, json_block, link, tag
from monai_ext.report.palette import class_colour
from monai_ext.report.strips import StripRow, strip_chart


def ticks(chart: str, scale: str = "linear") -> list[str]:
    layer = chart.split(f'class="scale {scale}"')[1].split("</g>")[0]
    return re.findall(r'text-anchor="end">([^<]+)<', layer)


def test_axis_has_round_numbers_around_the_values() -> None:
    chart = line_chart("Loss", {"loss": [(1, 0.93), (2, 0.11)]})
    assert ticks(chart) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_log_axis_is_offered_for_positive_values_only() -> None:
    assert ticks(line_chart("Loss", {"loss": [(1, 3.0), (2, 0.3)]}, log=True), "log") == ["0.2", "0.5", "1", "2", "5"]
    assert "log-toggle" not in line_chart("Loss", {"loss": [(1, 3.0), (2, 0.0)]}, log=True)


def test_tenfold_spans_show_powers_of_ten() -> None:
    chart = line_chart("Rate", {"rate": [(1, 1e-2), (9, 1e-6)]}, log=True)
    assert ticks(chart, "log") == ["1e-06", "1e-05", "0.0001", "0.001", "0.01"]


def test_one_epoch_and_constant_values_are_drawn() -> None:
    assert "polyline" in line_chart("Loss", {"loss": [(1, 0.5)]}, log=True)
    assert len(ticks(line_chart("Loss", {"loss": [(1, 0.0), (2, 0.0)]}))) > 2


def test_epochs_of_a_resumed_run_keep_their_numbers() -> None:
    chart = line_chart("Loss", {"loss": [(101, 1.0), (160, 0.5)]})
    assert "101" not in re.findall(r'text-anchor="middle">([^<]+)<', chart)
    assert "120" in re.findall(r'text-anchor="middle">([^<]+)<', chart)


def test_two_series_have_a_legend_and_different_dashes() -> None:
    chart = line_chart("Dice", {"a": [(1, 0.1), (2, 0.2)], "b": [(1, 0.3), (2, 0.4)]})
    assert chart.count('class="key"') == 2
    assert {"line s0", "line s1"} <= set(re.findall(r'class="(line s\d)"', chart))


def test_strip_shows_each_case_and_the_interval() -> None:
    row = StripRow("class", class_colour(1), {"mean": 0.8, "low": 0.7, "high": 0.9}, [(0.7, "a"), (0.9, "b")])
    chart = strip_chart([row], "Dice")
    assert re.findall(r"<circle[^>]*><title>([^<]+)</title>", chart) == ["a: 0.700", "b: 0.900"]
    assert chart.count('class="interval"') == 1


def test_markup_escapes_what_was_not_built() -> None:
    assert tag("p", "<b>", tag("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert tag("p", Markup("<b>") + "x") == "<p>&lt;b&gt;x</p>"  # joined text counts as text again
    assert "<" not in json_block("a", "</script>")[len('<script type="application/json" id="a">') : -len("</script>")]
    assert link("javascript:alert(1)") == escape("javascript:alert(1)")
