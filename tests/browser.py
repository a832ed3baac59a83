"""A headless Chromium, spoken to over a pipe (the DevTools protocol): no driver, no port, no network."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome, None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A page of a fresh browser; a context manager. `problems` gathers console errors, exceptions and refusals of the
    security policy; `requests` every address asked for."""

    def __init__(self, browser: str):
        self.folder = tempfile.mkdtemp(prefix="browser")
        to_browser, self.writing = os.pipe()
        self.reading, from_browser = os.pipe()

        def connect():  # the browser reads file 3 and writes file 4
            one, other = os.dup(to_browser), os.dup(from_browser)  # neither may stand where the other goes
            os.dup2(one, 3)
            os.dup2(other, 4)

        self.process = subprocess.Popen(
            [browser, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
            preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser), os.close(from_browser)
        self.count, self.rest, self.session = 0, b"", None
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params) -> dict:
        """The result of one command."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, path: Path, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file at a width in CSS pixels, as a telephone below 600, and wait until it is there."""
        phone = width < 600
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=scheme)
        self.loaded = False
        self("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._next()

    def value(self, expression: str):
        """What an expression of the page's script language gives."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, path: Path, full: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self) -> dict:
        while b"\0" not in self.rest:
            read = os.read(self.reading, 1 << 20)
            assert read, "the browser has ended"
            self.rest += read
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:80])
        elif method == "Page.loadEventFired":
            self.loaded = True
        return message

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.writing), os.close(self.reading)
        for _ in range(5):  # its helpers end a moment later and still write
            shutil.rmtree(self.folder, ignore_errors=True)
            if not Path(self.folder).exists():
                break
            time.sleep(0.1)
