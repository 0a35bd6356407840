# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page about a run: what was run, how well it did, and what it looks like."""

from monai_ext.report.page import build_report

__all__ = ["build_report"]
