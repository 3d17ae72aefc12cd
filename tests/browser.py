"""Open a page in headless Chromium and hear everything it complains about.

The DevTools protocol reports uncaught exceptions, ``console.error`` calls, the browser's own
complaints (a blocked or missing resource, a broken policy) and every request, whereas
Chromium's log on standard error mixes them with noise of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_START_TIMEOUT_S = 45
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-address=127.0.0.1",
    "--remote-debugging-port=0",
)


@dataclass(frozen=True)
class PageResult:
    """What a page did when it was opened.

    Attributes:
        console_errors: Uncaught exceptions, errors and warnings on the console, and failed
            requests, each as one line.
        requests: URLs asked for, other than the page itself and ``data:`` URLs.
        screenshot_png: The whole page, from top to bottom.
        dom_text: The text a reader sees.
        scroll_width: Width of the content in CSS pixels; above ``width`` the page scrolls
            sideways.
        value: What ``script`` evaluated to.
    """

    console_errors: tuple[str, ...]
    requests: tuple[str, ...]
    screenshot_png: bytes
    dom_text: str
    scroll_width: int
    value: Any


def find_chromium() -> str:
    """Find the browser, or fail with what to install."""
    for name in _NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise FileNotFoundError("no Chromium found; `make system-packages` installs it")


def open_page(
    path: Path,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    phone: bool = False,
    script: str = "null",
    timeout_s: float = 60,
) -> PageResult:
    """Open a local HTML file, wait until it has loaded, and look at it.

    Args:
        path: The file.
        width: Width of the viewport in CSS pixels.
        height: Height of the viewport in CSS pixels.
        dark: Prefer the dark color scheme.
        phone: Behave as a phone does (touch, the page's own viewport setting).
        script: JavaScript to evaluate once the page has loaded; a promise is awaited.
        timeout_s: Limit for everything together; past it the browser is ended.
    """
    with _chromium() as address:
        session = _look(address, path.resolve().as_uri(), (width, height), dark, phone, script)
        return asyncio.run(asyncio.wait_for(session, timeout_s))


@contextlib.contextmanager
def _chromium() -> Iterator[str]:
    """Start a browser with a profile of its own and give its DevTools address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        profile = Path(name)
        with (profile / "log").open("wb") as log:
            process = subprocess.Popen(
                [find_chromium(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield _devtools_address(process, profile)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _devtools_address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Wait for the file in which Chromium says where it listens."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            port, _, path = (profile / "DevToolsActivePort").read_text().partition("\n")
            if path:
                return f"ws://127.0.0.1:{port}{path.strip()}"
        time.sleep(0.05)
    said = (profile / "log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"Chromium does not listen (exit status {process.poll()}): {said}")


class _DevTools:
    """Send commands to one page and collect its events."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.loaded = asyncio.Event()

    async def listen(self) -> None:
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            else:
                self.events.append((content["method"], content.get("params", {})))
                if content["method"] == "Page.loadEventFired":
                    self.loaded.set()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        await self._socket.send_json(command)
        content = await answer
        if "error" in content:
            raise RuntimeError(f"{method}: {content['error']}")
        result: dict[str, Any] = content["result"]
        return result

    async def attach(self) -> None:
        """Open a tab and speak to it from now on."""
        target = await self.call("Target.createTarget", url="about:blank")
        answer = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = answer["sessionId"]


async def _look(
    address: str, url: str, size: tuple[int, int], dark: bool, phone: bool, script: str
) -> PageResult:
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(address, max_msg_size=0) as socket,
    ):
        page = _DevTools(socket)
        listener = asyncio.create_task(page.listen())
        try:
            return await _visit(page, url, size, dark, phone, script)
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener


async def _visit(
    page: _DevTools, url: str, size: tuple[int, int], dark: bool, phone: bool, script: str
) -> PageResult:
    await page.attach()
    for domain in ("Page", "Runtime", "Log", "Network"):
        await page.call(f"{domain}.enable")
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    await page.call("Emulation.setEmulatedMedia", features=[scheme])
    width, height = size
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=2 if phone else 1,
        mobile=phone,
    )
    answer = await page.call("Page.navigate", url=url)
    if "errorText" in answer:
        raise RuntimeError(f"{url}: {answer['errorText']}")
    await page.loaded.wait()
    # Two frames later everything that loading set off has run and has been painted.
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    await page.call("Runtime.evaluate", expression=frames, awaitPromise=True)
    value = await _evaluate(page, script)
    text = await _evaluate(page, "document.body.innerText")
    scroll_width = await _evaluate(page, "document.documentElement.scrollWidth")
    content = (await page.call("Page.getLayoutMetrics"))["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": width, "height": content["height"], "scale": 1}
    picture = await page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    return PageResult(
        console_errors=tuple(_complaints(page.events)),
        requests=tuple(_requests(page.events, url)),
        screenshot_png=base64.b64decode(picture["data"]),
        dom_text=text,
        scroll_width=scroll_width,
        value=value,
    )


async def _evaluate(page: _DevTools, expression: str) -> Any:
    answer = await page.call(
        "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
    )
    if "exceptionDetails" in answer:
        raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
    return answer["result"].get("value")


def _complaints(events: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    urls = {}
    for method, params in events:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            what = details.get("exception", {}).get("description", "")
            yield f"exception: {details['text']} {what}"
        elif method == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            parts = (arg.get("value", arg.get("description")) for arg in params["args"])
            yield f"console.{params['type']}: {' '.join(map(str, parts))}"
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            yield f"{params['entry']['level']}: {params['entry']['text']}"
        elif method == "Network.requestWillBeSent":
            urls[params["requestId"]] = params["request"]["url"]
        elif method == "Network.loadingFailed":
            yield f"request failed: {urls.get(params['requestId'])} {params['errorText']}"


def _requests(events: list[tuple[str, dict[str, Any]]], page_url: str) -> Iterator[str]:
    for method, params in events:
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != page_url and not url.startswith("data:"):
                yield url
