# SPDX-License-Identifier: Apache-2.0
"""What a client says it is never counts; what the server knows does, in each thread that works for a request."""

from __future__ import annotations

import asyncio

import pytest

from monai_ext.label.asking_user import asking, asking_user, signed


def test_outside_of_a_request_what_the_server_itself_wrote_stays() -> None:
    assert asking_user() is None
    assert signed({"user": "ada"}) == {"user": "ada"}


@pytest.mark.parametrize(("user", "expected"), [("ada", {"user": "ada", "reader": "B."}), (None, {"reader": "B."})])
def test_within_a_request_the_client_s_word_does_not_count(user: str | None, expected: dict[str, object]) -> None:
    with asking(user):
        assert signed({"user": "eve", "reader": "B."}) == expected
    assert asking_user() is None


def test_users_at_once_are_told_apart_in_the_threads_that_work_for_them() -> None:
    async def request(user: str) -> str | None:
        with asking(user):
            await asyncio.sleep(0)  # the other one comes in between
            return await asyncio.to_thread(asking_user)

    async def both() -> list[str | None]:
        return await asyncio.gather(request("ada"), request("bob"))

    assert asyncio.run(both()) == ["ada", "bob"]
