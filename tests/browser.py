"""A real headless Chromium, driven through its debugging pipe: no driver, no port, no package."""

import base64
import io
import json
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
PATIENCE = 120.0  # seconds until a page that does not come to its end is a failure
FLAGS = [
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--mute-audio",
    # WebGL 2 without a graphics card
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


class Tab:
    """One page. `requests` are the addresses that it asked for, `errors` what it threw."""

    def __init__(self, to: int, answers: int, width: int, height: int) -> None:
        self._to, self._answers, self._last, self._unread = to, answers, 0, b""
        self._session: str | None = None
        self._there = ""  # the page that has been come to
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result; events on the way are noted."""
        self._last += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._last, "method": method, "params": params, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        message = json.loads(self._read())
        match message:
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.requests.append(url)
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.errors.append(json.dumps(details))
            case {"method": "Page.frameNavigated", "params": {"frame": {"loaderId": loader}}}:
                self._there = loader
        return dict(message)

    def _read(self) -> bytes:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, "Chromium is silent"
            part = os.read(self._answers, 1 << 16)
            assert part, "Chromium ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return message

    def go(self, url: str) -> None:
        """Open an address and wait until the page is that one: of two on the way one gets lost."""
        loader = self.call("Page.navigate", url=url)["loaderId"]
        while self._there != loader:
            self._next()

    def value(self, script: str) -> Any:
        """What an expression comes to on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait for an expression to come true."""
        deadline = time.monotonic() + PATIENCE
        while not self.value(f"!!({script})"):
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release one key."""
        text = {"Enter": "\r"}.get(key, key)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, folder: Path) -> None:
        """Choose a folder in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(folder)])

    def picture(self, file: Path | None = None) -> np.ndarray:
        """A screenshot, (rows, columns, 3) in 0..1; also written to `file`."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if file:
            file.write_bytes(png)
        return np.asarray(imread(io.BytesIO(png), format="png")[..., :3])


@contextmanager
def chromium(profile: Path, width: int = 1000, height: int = 500) -> Iterator[Tab]:
    """A tab of a Chromium of our own that ends with the block."""
    (commands, to), (answers, theirs) = os.pipe(), os.pipe()
    program = shlex.join([CHROMIUM, *FLAGS, f"--user-data-dir={profile}"])
    # Chromium reads commands from descriptor 3 and answers on 4. (sh knows descriptors to 9 only.)
    process = subprocess.Popen(
        ["bash", "-c", f"exec {program} 3<&{commands} 4>&{theirs}"],
        pass_fds=(commands, theirs), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands)
    os.close(theirs)
    try:
        tab = Tab(to, answers, width, height)
        yield tab
        tab._session = None
        tab.call("Browser.close")
    finally:
        os.close(to)
        os.close(answers)
        if process.poll() is None:
            process.terminate()
        process.wait()
