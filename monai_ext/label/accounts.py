# SPDX-License-Identifier: Apache-2.0
"""Who may use the server: names and passwords from a file, and tokens for viewers that want them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from monai_ext.errors import InputError

SHORTEST_PASSWORD = 8
TOKEN_SECONDS = 12 * 3600.0


class Accounts:
    """Names and passwords of the people who may use a server.

    Browsers send them with every request (HTTP Basic). 3D Slicer asks for a token once and sends that; tokens hold
    for twelve hours, or until the server ends.

    MONAI Label's own authentication is not used: it needs a Keycloak server, and with PyJWT 2 and later it refuses
    every token, because it does not say by which algorithm tokens are signed.

    Args:
        passwords: by name.
        clock: seconds, for the age of tokens.

    Raises:
        InputError: there is nobody, or a password is too short.

    Example:
        >>> accounts = Accounts({"ada": "difference engine"})
        >>> accounts.user("Bearer " + accounts.token("ada", "difference engine"))
        'ada'
        >>> accounts.user("Bearer anything") is None
        True
    """

    def __init__(self, passwords: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        if not passwords:
            raise InputError("users: there is nobody in the file; write a line name:password for each.")
        for name, password in passwords.items():
            if len(password) < SHORTEST_PASSWORD:
                raise InputError(f"users: the password of {name} has fewer than {SHORTEST_PASSWORD} characters.")
        self._key = secrets.token_bytes(32)  # of this process; what it signs is void after a restart
        self._digests = {name: self._sign(password) for name, password in passwords.items()}
        self._clock = clock

    @classmethod
    def read(cls, path: str | Path) -> Accounts:
        """Read a file with a line ``name:password`` for each user; ``#`` begins a comment line.

        Raises:
            InputError: the file cannot be read, others than its owner can read it, or a line is none of these.
        """
        path = Path(path)
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); give a text file of lines name:password.") from error
        if mode & 0o077:
            raise InputError(f"{path}: others can read these passwords (mode {mode & 0o777:o}); chmod 600 {path}")
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        passwords: dict[str, str] = {}
        for number, line in lines:
            name, colon, password = line.partition(":")
            if line.lstrip().startswith("#"):
                continue
            if not colon or not name.strip() or name.strip() in passwords:
                raise InputError(f"{path}, line {number}: must be name:password, each name once.")
            passwords[name.strip()] = password
        return cls(passwords)

    def token(self, name: str, password: str) -> str | None:
        """Return a token for a user, None if name and password do not belong together."""
        if not self._knows(name, password):
            return None
        content = f"{self._clock() + TOKEN_SECONDS:.0f}:{name}"
        return base64.urlsafe_b64encode(f"{self._sign(content)}:{content}".encode()).decode()

    def user(self, authorization: str) -> str | None:
        """Return whose credentials a request's header ``Authorization`` has, None if they are nobody's."""
        scheme, _, given = authorization.partition(" ")
        try:
            content = base64.b64decode(given.strip(), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        if scheme.lower() == "basic":
            name, _, password = content.partition(":")
            return name if self._knows(name, password) else None
        signature, _, content = content.partition(":")
        until, _, name = content.partition(":")
        if scheme.lower() != "bearer" or not hmac.compare_digest(signature.encode(), self._sign(content).encode()):
            return None
        return name if float(until) > self._clock() else None

    def _knows(self, name: str, password: str) -> bool:
        expected = self._digests.get(name, self._sign(""))  # as much work for unknown names
        return hmac.compare_digest(expected, self._sign(password)) and name in self._digests

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
