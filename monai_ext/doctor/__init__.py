# SPDX-License-Identifier: Apache-2.0
"""Find what is broken in a folder of scans and labels, and mend what can be mended into a new folder.

Read in this order: `finding.py` (the rules), `folder.py` (what is examined), `examine.py` (how), `repair.py`.
"""
