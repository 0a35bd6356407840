# SPDX-License-Identifier: Apache-2.0
"""Parts of what a bundle's ``train.json`` describes, built outside of a MONAI workflow."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_ext.errors import InputError


class BundleTraining:
    """A bundle's ``configs/train.json`` with knobs changed, of which parts can be built.

    As with ``monai.bundle run``, the bundle's own Python package comes first on the path.

    Args:
        bundle: its folder.
        knobs: top-level entries to change.
        config: another config on top: a path, or the name of a file in the bundle's ``configs``.

    Raises:
        InputError: there is no such config or knob.

    Example:
        >>> BundleTraining(Path("bundles/sam_sp"), {"plane": "coronal"}).value("plane")  # doctest: +SKIP
        'coronal'
    """

    def __init__(self, bundle: Path, knobs: Mapping[str, object], config: str | None = None) -> None:
        self.path = bundle / "configs" / "train.json"
        files = [self.path]
        if config is not None:
            files.append(Path(config) if Path(config).is_file() else bundle / "configs" / config)
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise InputError(f"{missing}: there is no such config.")
        if str(bundle) not in sys.path:
            sys.path.insert(0, str(bundle))
        self._parser = ConfigParser()
        self._parser.read_config([str(file) for file in files])
        self._parser["bundle_root"] = str(bundle)
        for name, value in knobs.items():
            if name not in self._parser.get():
                close = difflib.get_close_matches(name, list(self._parser.get()), n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise InputError(f"{name}: is no knob of {self.path}{hint}.")
            self._parser[name] = value

    def has(self, name: str) -> bool:
        """Say whether the config has an entry; parts of parts are named as in ``train#reading``."""
        return self._parser.get(name) is not None

    def build(self, name: str) -> Any:
        """Build a part, or work out a knob.

        Raises:
            InputError: the config does not have it.
        """
        if not self.has(name):
            raise InputError(f"{self.path}: must have an entry {name!r}.")
        return self._content(name)

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of a knob, ``default`` where the config has none or null."""
        content = self._content(name) if self.has(name) else None
        return default if content is None else content

    def items(self, section: str) -> list[dict[str, Any]]:
        """Return the scans of a section, listed as training lists its own.

        Raises:
            InputError: the config does not say how, or the data set does not have it.
        """
        name = "train#dataset#data"
        if not self.has(f"{name}#section"):
            raise InputError(f"{self.path}: {name} must have a 'section', as monai_ext.data.load_datalist does.")
        self._parser[f"{name}#section"] = section
        return list(self._content(name))

    def _content(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns each time that a config is code; the bundle is the user's own
            return self._parser.get_parsed_content(name, instantiate=True)
