# SPDX-License-Identifier: Apache-2.0
"""Make a small environment for MONAI Label's server out of the large one of the tests.

The server needs numpy below 2 and pydicom below 3, and everything else that the tests need, torch above all. So the
environment whose Python runs this file searches its own packages first and those of the other behind, and gets what
the extra ``label`` asks for. Run by `tox -e label`::

    python tests/served/borrow.py .tox/main
"""

from __future__ import annotations

import site
import subprocess
import sys
import sysconfig
from importlib.metadata import requires
from pathlib import Path

PROJECT = "monai-ext"
OWN_FIRST = {"numpy": "1.", "pydicom": "2."}


def main(lender: Path) -> None:
    """Borrow the packages of an environment, then install what has to differ."""
    packages = packages_of(lender)
    # a plain path would leave out what the other's own .pth files say, the editable install of the project
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    (Path(sysconfig.get_path("purelib")) / "zz_borrowed.pth").write_text(line, encoding="utf-8")
    site.addsitedir(str(packages))
    asked = [text.partition(";")[0].strip() for text in requires(PROJECT) or () if 'extra == "label"' in text]
    # pip would warn that opencv and ml-dtypes want numpy 2: they work with 1.26 too, and nothing served uses them
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", *asked], check=True)
    for package, version in OWN_FIRST.items():
        check(package, version)


def packages_of(lender: Path) -> Path:
    """Where an environment of this Python keeps its packages."""
    lender = lender.resolve()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(lender), "platbase": str(lender)}))
    if not (packages / "torch").is_dir():
        raise SystemExit(f"error: {packages} has no torch; make that environment first: tox -e {lender.name} --notest")
    return packages


def check(package: str, version: str) -> None:
    """Refuse an environment in which the other's package wins."""
    code = f"import {package}; print({package}.__version__)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    if not found.startswith(version):
        raise SystemExit(f"error: {package} {found} is found, {version}* is wanted; remove {sys.prefix}, start again.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
