# SPDX-License-Identifier: Apache-2.0
"""A headless chromium driven through chromedriver's HTTP interface, with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSTALL = "apt-get install -y chromium chromium-driver"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_KEYS = {"left": "\ue012", "right": "\ue014", "end": "\ue010", "home": "\ue011"}


class Browser:
    """One window. Commands raise `RuntimeError` with the browser's own message."""

    def __init__(self, port: int, profile: Path) -> None:
        self._root = f"http://127.0.0.1:{port}/session"
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self._send("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._root += f"/{session['sessionId']}"  # type: ignore[index]

    def open(self, page: Path, width: int = 1200, dark: bool = False) -> None:
        """Open a file in a window of this width, on a system with light or dark colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # a click must not chase a scrolling page
        self.devtools("Emulation.setEmulatedMedia", features=[scheme, still])
        self._send("POST", "/url", {"url": page.as_uri()})
        self.wait_for("return !document.getElementById('viewer') || !!document.getElementById('viewer').dataset.drawn")

    def run(self, script: str) -> object:
        """Return what a script returns."""
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str) -> None:
        """Wait until a script returns something true."""
        end = time.monotonic() + 20
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click an element as a user does."""
        self._send("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, keys: str) -> None:
        """Send text, or a key by its name, to an element."""
        self._send("POST", f"/element/{self._find(selector)}/value", {"text": _KEYS.get(keys, keys)})

    def devtools(self, command: str, **parameters: object) -> dict[str, object]:
        """Send a command of the DevTools protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})  # type: ignore[return-value]

    def logs(self, kind: str) -> list[dict[str, str]]:
        """Return what was logged since the last call; kind is "browser" (console) or "performance" (network)."""
        return self._send("POST", "/se/log", {"type": kind})  # type: ignore[return-value]

    def screenshot(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        return base64.b64decode(str(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self._send("DELETE", "")

    def _find(self, selector: str) -> str:
        found = self._send("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))  # type: ignore[attr-defined]

    def _send(self, method: str, path: str, content: object = None) -> object:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._root + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from None


@contextmanager
def headless_browser(profile: Path) -> Iterator[Browser]:
    """Start chromedriver and a browser with an empty profile; without them skip, or fail where one is required."""
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        message = f"needs a browser: {INSTALL}"
        if os.environ.get("MONAI_EXT_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_up(port)
        browser = Browser(port, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_up(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
