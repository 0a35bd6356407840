# SPDX-License-Identifier: Apache-2.0
"""One error type for what a user can mend, and a hook that shows it as one line."""

from __future__ import annotations

import os
import sys
from types import TracebackType


class InputError(ValueError):
    """Something the user gave is wrong; the message names the rule, the value, the file and the remedy.

    Example:
        >>> raise InputError("scan.nii.gz: 12 voxels are NaN; run `python -m monai_ext doctor DIR --repair`.")
        Traceback (most recent call last):
        ...
        monai_ext.errors.InputError: scan.nii.gz: 12 voxels are NaN; run `python -m monai_ext doctor DIR --repair`.
    """


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` at the root of a chain of exceptions, or None.

    MONAI wraps what a transform raises, and a data loader's worker re-raises it in the main process, so the
    error that the user can mend is seldom the outermost one.
    """
    seen: set[int] = set()
    found = None
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, InputError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def message_of(error: InputError) -> str:
    """Return the error's own line; a worker process puts its traceback before it."""
    text = str(error)
    marker = f"{InputError.__name__}: "
    return text.rsplit(marker, 1)[1].strip().splitlines()[0] if marker in text else text


def one_line_errors() -> None:
    """From now on print an uncaught `InputError` as one line; anything else keeps its traceback.

    Set the environment variable ``MONAI_EXT_DEBUG=1`` to see the traceback all the same.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        wanted = find_input_error(error)
        if wanted is None or os.environ.get("MONAI_EXT_DEBUG"):
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {message_of(wanted)}", file=sys.stderr)

    sys.excepthook = show
