# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m monai_ext NAME --argument value`."""

from __future__ import annotations

from monai_ext.commands._fire import main

if __name__ == "__main__":
    raise SystemExit(main())
