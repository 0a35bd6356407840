# SPDX-License-Identifier: Apache-2.0
"""What reaches MONAI Label, and what is turned away before it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, NamedTuple

import pytest

from monai_ext.label import gate
from monai_ext.label.accounts import Accounts
from monai_ext.label.asking_user import NOBODY, asking_user
from monai_ext.label.gate import Gate, Message, Receive, Send

HERE = {"host": "localhost:8000"}
ADA = {**HERE, "authorization": "Basic " + base64.b64encode(b"ada:difference engine").decode()}


class Answer(NamedTuple):
    status: int
    content: Any
    headers: dict[bytes, bytes]


class Behind:
    """The application behind the gate: reads all that is sent, and says so."""

    def __init__(self) -> None:
        self.bodies: list[int] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.users: list[str | None] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                raise ConnectionError("the client went away")
            size, more = size + len(part.get("body", b"")), part.get("more_body", False)
        self.bodies.append(size)
        self.headers.append(dict(scope["headers"]))
        self.users.append(asking_user())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"behind"'})


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Behind:
    monkeypatch.setattr(gate, "WRONG_PASSWORD_SECONDS", 0.0)
    return Behind()


def ask(
    app: Gate, method: str, path: str, query: str = "", headers: dict[str, str] = HERE, body: tuple[bytes, ...] = (b"",)
) -> Answer:
    """One request, its body in parts."""
    parts = [{"type": "http.request", "body": b, "more_body": n + 1 < len(body)} for n, b in enumerate(body)]
    sent: list[Message] = []

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    listed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": listed}
    asyncio.run(app(scope, receive, send))
    return Answer(sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"]))


def status(app: Gate, method: str, path: str, query: str = "", **more: Any) -> int:
    return ask(app, method, path, query, **more).status


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/", ""),
        ("GET", "/info/", ""),
        ("GET", "/ohif/1185.bundle.63d4a7234e943a3bc2ab.js", ""),
        ("POST", "/infer/sam_sp", "image=case%2001&output=json"),
        ("POST", "/infer/sam_sp", "image=&session_id=06f94fe6-e956-11f1-8499-02fc00000001"),
        ("PUT", "/datastore/label", "image=a&tag=final"),
        ("PUT", "/session/", "uncompress=false&expiry=0"),
        ("POST", "/activelearning/random", ""),
        ("GET", "/proxy/dicom/wado/studies/1.2/series/1.3/metadata", "includefield=all"),
    ],
)
def test_what_viewers_ask_is_handed_on(method: str, path: str, query: str, behind: Behind) -> None:
    assert ask(Gate(behind), method, path, query).content == "behind"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/reload"), ("PUT", "/model/sam_sp"), ("DELETE", "/model/sam_sp"), ("POST", "/infer/wsi_v2/sam_sp")),
        *(("DELETE", "/proxy/dicom/wado/studies"), ("POST", "/docs"), ("OPTIONS", "/info/"), ("GET", "/elsewhere")),
        *(("POST", "/proxy/dicom/stow/studies"), ("POST", "/scoring/dice"), ("GET", "/logs/"), ("GET", "//info/")),
        *(("DELETE", "/datastore/image"), ("GET", "/datastore/dataset"), ("GET", "info/"), ("GET", "")),
    ],
)
def test_what_could_replace_weights_or_end_in_another_program_or_destroy_studies_is_not_offered(
    method: str, path: str, behind: Behind
) -> None:
    assert status(Gate(behind), method, path) == 404
    assert behind.bodies == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/datastore/image", "image=..%2F..%2Fetc%2Fpasswd"),
        ("/datastore/label", "label=a&tag=..%2F.."),
        ("/datastore/label", "label=a&label=..%2Fb&tag=final"),
        ("/datastore/image", "image=%2Fetc%2Fpasswd"),
        ("/datastore/image", "image=a%00b"),
        ("/session/..", ""),
        ("/ohif/../../secret", ""),
    ],
)
def test_names_that_lead_out_of_a_folder_are_refused(path: str, query: str, behind: Behind) -> None:
    assert status(Gate(behind), "GET", path, query) == 400
    assert behind.bodies == []


@pytest.mark.parametrize("path", ["/datastore/", "/datastore/image", "/datastore/label"])
def test_the_name_of_a_sent_file_does_not_become_an_id(path: str, behind: Behind) -> None:
    assert status(Gate(behind), "PUT", path) == 400
    assert status(Gate(behind), "PUT", path, "image=new") == 200


def test_a_study_is_not_removed_by_the_old_address_either(behind: Behind) -> None:
    assert [status(Gate(behind), "DELETE", path, "id=a") for path in ("/datastore", "/datastore/")] == [400, 400]
    assert status(Gate(behind), "DELETE", "/datastore/label", "id=a&tag=final") == 200


def test_an_archive_is_not_unpacked(behind: Behind) -> None:
    assert status(Gate(behind), "PUT", "/session/", "uncompress=true") == 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({}, 403),
    ],
)
def test_pages_of_other_sites_do_not_reach_a_server_on_the_same_machine(
    headers: dict[str, str], expected: int, behind: Behind
) -> None:
    assert status(Gate(behind, hosts={"localhost", "127.0.0.1"}), "POST", "/infer/m", headers=headers) == expected


def test_a_body_may_be_as_large_as_was_said_and_no_larger(behind: Behind) -> None:
    app = Gate(behind, max_bytes=10)
    assert status(app, "PUT", "/session/", body=(b"12345", b"67890")) == 200
    assert status(app, "PUT", "/session/", body=(b"12345", b"67890", b"!")) == 413
    assert status(app, "PUT", "/session/", headers={**HERE, "content-length": "11"}) == 413
    assert status(app, "PUT", "/session/", headers={**HERE, "content-length": "-1"}) == 413
    assert behind.bodies == [10]


def test_only_what_takes_files_takes_more_than_a_megabyte(behind: Behind) -> None:
    large = (b"x" * 600_000, b"x" * 600_000)
    asked = {
        path: status(Gate(behind), "POST", path, body=large) for path in ("/infer/m", "/train/m", "/batch/infer/m")
    }
    assert asked == {"/infer/m": 200, "/train/m": 413, "/batch/infer/m": 413}


def test_a_length_that_is_no_number_is_refused(behind: Behind) -> None:
    assert status(Gate(behind), "PUT", "/session/", headers={**HERE, "content-length": "\u00b2"}) == 413


def test_what_is_behind_learns_the_name_and_never_the_password(behind: Behind) -> None:
    app = Gate(behind, Accounts({"ada": "difference engine"}))
    assert status(app, "GET", "/info/", headers={**ADA, "cookie": "a=b", "x-other": "1"}) == 200
    assert behind.users == ["ada"]
    assert behind.headers == [{b"host": b"localhost:8000", b"x-other": b"1"}]
    assert status(Gate(behind), "GET", "/info/") == 200
    assert behind.users == ["ada", NOBODY]


def test_a_refused_path_forges_no_line_of_the_log(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {**HERE, "authorization": "Basic YWRhOnh4"}
    status(Gate(behind, Accounts({"ada": "difference engine"})), "GET", "/info/\nINFO ada: DELETE", headers=wrong)
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]


@pytest.mark.parametrize("path", ["/info/", "/ohif/", "/openapi.json", "/auth/token/valid", "/elsewhere"])
def test_nothing_is_told_to_nobody(path: str, behind: Behind) -> None:
    answer = ask(Gate(behind, Accounts({"ada": "difference engine"})), "GET", path)
    assert answer.status == 401
    assert answer.headers[b"www-authenticate"].startswith(b"Basic ")  # so that a browser asks
    assert behind.bodies == []


def test_a_user_is_served(behind: Behind) -> None:
    app = Gate(behind, Accounts({"ada": "difference engine"}))
    assert ask(app, "GET", "/info/", headers=ADA).content == "behind"
    assert status(app, "GET", "/info/", headers={**HERE, "authorization": "Basic YWRhOnh4"}) == 401


def test_a_viewer_that_wants_a_token_gets_one_as_from_monai_label(behind: Behind) -> None:
    app = Gate(behind, Accounts({"ada": "difference engine"}))
    assert ask(app, "GET", "/auth/").content == {"enabled": True}
    form = (b"username=ada&password=difference+engine", b"&grant_type=password")
    token = ask(app, "POST", "/auth/token", body=form).content
    assert token["token_type"] == "bearer"
    headers = {**HERE, "authorization": f"bearer {token['access_token']}"}
    assert ask(app, "GET", "/auth/token/valid", headers=headers).content == {"username": "ada"}
    assert ask(app, "GET", "/info/", headers=headers).content == "behind"
    assert status(app, "POST", "/auth/token", body=(b"username=ada&password=guess",)) == 401


def test_without_users_no_password_is_asked_for(behind: Behind) -> None:
    assert ask(Gate(behind), "GET", "/auth/").content == {"enabled": False}


def test_who_guesses_has_to_wait(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(gate, "WRONG_PASSWORD_SECONDS", 1.0)
    monkeypatch.setattr(gate.asyncio, "sleep", sleep)
    app = Gate(behind, Accounts({"ada": "difference engine"}))
    ask(app, "POST", "/auth/token", body=(b"username=ada&password=guess",))
    ask(app, "GET", "/info/", headers={**HERE, "authorization": "Basic YWRhOnh4"})
    ask(app, "GET", "/info/")
    assert waits == [1.0, 1.0]


def test_who_guesses_many_times_at_once_is_no_faster(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, most = 0, 0
    pause = asyncio.sleep

    async def sleep(seconds: float) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await pause(0)
        waiting -= 1

    async def guess_at_once(app: Gate) -> None:
        request = {"type": "http", "method": "GET", "path": "/info/", "query_string": b""}
        headers = [(b"host", b"localhost"), (b"authorization", b"Basic YWRhOnh4")]
        await asyncio.gather(*(app({**request, "headers": headers}, _nothing, _nowhere) for _ in range(5)))

    monkeypatch.setattr(gate.asyncio, "sleep", sleep)
    asyncio.run(guess_at_once(Gate(behind, Accounts({"ada": "difference engine"}))))
    assert most == 1


async def _nothing() -> Message:
    return {"type": "http.request"}


async def _nowhere(message: Message) -> None:
    """Take what is sent."""
