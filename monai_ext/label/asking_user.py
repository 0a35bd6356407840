# SPDX-License-Identifier: Apache-2.0
"""Who sent the request that is being answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NOBODY = ""  # there is a request, and the server has no accounts
_USER: ContextVar[str | None] = ContextVar("asking_user", default=None)


@contextmanager
def asking(user: str | None) -> Iterator[None]:
    """Let everything inside know who asks, threads that the server starts for it included.

    Args:
        user: a name of `Accounts`, or None where there are none.

    Example:
        >>> with asking("ada"):
        ...     print(signed({"reader": "B.", "user": "eve"}))
        {'reader': 'B.', 'user': 'ada'}
    """
    token = _USER.set(NOBODY if user is None else user)
    try:
        yield
    finally:
        _USER.reset(token)


def asking_user() -> str | None:
    """Return the name, `NOBODY` if the server has no accounts, and None where no request is being answered."""
    return _USER.get()


def signed(info: dict[str, object]) -> dict[str, object]:
    """Return what is said of a label or study with ``user`` as it is known here, whatever a client said it was."""
    user = asking_user()
    if user is None:  # a background task, which was told by the server itself
        return info
    kept = {name: value for name, value in info.items() if name != "user"}
    return kept if user == NOBODY else {**kept, "user": user}
