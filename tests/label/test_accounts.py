# SPDX-License-Identifier: Apache-2.0
"""Only names with their own passwords, and tokens of this server that have not run out, are somebody's."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from monai_ext.errors import InputError
from monai_ext.label.accounts import TOKEN_SECONDS, Accounts

PASSWORDS = {"ada": "difference engine", "émilie": "forces: vives"}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_user_is_known_by_password_and_by_token(name: str) -> None:
    accounts = Accounts(PASSWORDS)
    assert accounts.user(basic(name, PASSWORDS[name])) == name
    assert accounts.user(f"bearer {accounts.token(name, PASSWORDS[name])}") == name


@pytest.mark.parametrize(
    "given",
    [
        *("", "Basic", "Basic !!!", "Basic YQ==", "Bearer YQ==", "Bearer " + "A" * 400, "x y z"),
        "Bearer " + base64.b64encode("é:9:ada".encode()).decode(),
        *(basic("ada", "forces: vives"), basic("eve", "difference engine"), basic("ada", ""), basic("eve", "")),
    ],
)
def test_anything_else_is_nobody_s(given: str) -> None:
    assert Accounts(PASSWORDS).user(given) is None


def test_a_wrong_password_gives_no_token() -> None:
    assert Accounts(PASSWORDS).token("ada", "difference engin") is None


def test_a_token_runs_out() -> None:
    now = [1000.0]
    accounts = Accounts(PASSWORDS, clock=lambda: now[0])
    token = accounts.token("ada", PASSWORDS["ada"])
    now[0] += TOKEN_SECONDS - 1
    assert accounts.user(f"Bearer {token}") == "ada"
    now[0] += 2
    assert accounts.user(f"Bearer {token}") is None


def test_a_token_of_another_server_or_for_another_name_is_worth_nothing() -> None:
    accounts, other = Accounts(PASSWORDS), Accounts(PASSWORDS)
    token = str(accounts.token("ada", PASSWORDS["ada"]))
    assert other.user(f"Bearer {token}") is None
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(token).replace(b":ada", b":eve")).decode()
    assert accounts.user(f"Bearer {forged}") is None


def test_a_password_is_no_token_and_a_token_no_password() -> None:
    accounts = Accounts(PASSWORDS)
    token = accounts.token("ada", PASSWORDS["ada"])
    assert accounts.user(f"Basic {token}") is None
    assert accounts.user(basic("ada", PASSWORDS["ada"]).replace("Basic", "Bearer")) is None


def test_a_file_of_users_is_read(tmp_path: Path) -> None:
    accounts = Accounts.read(write(tmp_path / "users", "# us\nada:difference engine\n\némilie:forces: vives\n"))
    assert [accounts.user(basic(*pair)) for pair in PASSWORDS.items()] == list(PASSWORDS)


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("ada:difference engine", 0o644, "others can read these passwords .mode 644.; chmod 600"),
        ("# nobody\n", 0o600, "there is nobody in the file"),
        ("ada difference engine", 0o600, "line 1: must be name:password"),
        ("ada:difference engine\nada:another password", 0o600, "line 2: must be name:password, each name once"),
        ("ada:short", 0o600, "the password of ada has fewer than 8 characters"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_line(text: str, mode: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        Accounts.read(write(tmp_path / "users", text, mode))
