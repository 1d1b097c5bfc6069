"""`make screenshots` looks at the built site in a browser.

Every page is opened by a Chromium of this machine, wide and narrow: pictures go into screenshots/, and
what is wrong is said with its page and width. Nothing but the standard library speaks to the browser, by messages of
the DevTools protocol through a pipe (https://chromedevtools.github.io/devtools-protocol).
"""

import base64
import contextlib
import fcntl
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
)
WINDOWS = ((1400, False), (768, True), (390, False))  # width in pixels, dark
TALLEST = 8000  # pixels of a page in its picture
PATIENCE = 60  # seconds without a word of the browser

WORDS = {  # measured -> what is said of it
    "beyond": "overflows",
    "broken": "broken",
    "split": "broken amid",
    "squeezed": "squeezed",
}

MEASURE = """(async () => {
  await document.fonts.ready
  document.querySelectorAll("img").forEach(i => { i.loading = "eager" })
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)))
  const place = e => e.tagName.toLowerCase() + " " + e.textContent.trim().slice(0, 40)
  const hidden = e => e && e !== document.body &&
    (getComputedStyle(e).overflowX !== "visible" || hidden(e.parentElement))
  const beyond = e => e.getBoundingClientRect().right > innerWidth + 1 && !hidden(e.parentElement)
  const split = c => !/[\\s-]/.test(c.textContent) && c.getClientRects().length > 1
  const squeezed = c => c.innerText.trim().split(/\\s+/).length >= 8 &&
    c.clientWidth < 7 * parseFloat(getComputedStyle(c).fontSize)
  const all = s => [...document.querySelectorAll(".md-content " + s)]
  return {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    beyond: all("*").filter(beyond).map(place),
    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    split: all("td > code").filter(split).map(place),
    squeezed: all("td").filter(squeezed).map(place),
  }
})()"""

SEARCH = """(async () => {
  const field = document.querySelector(".md-search__input")
  field.focus()
  field.value = "gamma"
  field.dispatchEvent(new Event("input", {bubbles: true}))
  field.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}))
  for (let i = 0; i < 100; i++) {
    const found = document.querySelectorAll(".md-search-result__item").length
    if (found) return found
    await new Promise(done => setTimeout(done, 100))
  }
  return 0
})()"""


class Page(NamedTuple):
    """What a browser says of one page at one width."""

    measured: dict[str, Any]
    events: list[dict[str, Any]]
    png: bytes


class Browser:
    """One tab of a Chromium."""

    def __init__(self, program: str, folder: str):
        there, back = os.pipe(), os.pipe()
        given, taken = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (there[0], back[1]))
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
        words = [program, *FLAGS, *root, f"--user-data-dir={folder}", "about:blank"]
        move = f'exec "$@" 3<&{given} 4>&{taken}'  # where it looks for its pipes
        self.process = subprocess.Popen(
            ["bash", "-c", move, "bash", *words],
            pass_fds=(given, taken),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for fd in (there[0], back[1], given, taken):
            os.close(fd)
        self.to, self.answers = os.fdopen(there[1], "wb"), os.fdopen(back[0], "rb")
        self.buffer, self.last, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready = select.select([self.answers], [], [], PATIENCE)[0]
            data = os.read(self.answers.fileno(), 1 << 20) if ready else b""
            if not data:
                self._end()
                raise SystemExit("the browser has ended, or is silent")
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns the answer to a DevTools message; events on the way to it are kept."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self.to.write(json.dumps(message).encode() + b"\0")
            self.to.flush()
        while (answer := self._receive()).get("id") != self.last:
            self.events.append(answer)
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, event: str) -> None:
        """Returns when an event has come."""
        while not any(each["method"] == event for each in self.events):
            self.events.append(self._receive())

    def evaluate(self, script: str) -> Any:
        """Returns what the page's promise comes to."""
        words = {"expression": script, "awaitPromise": True, "returnByValue": True}
        return self.call("Runtime.evaluate", **words)["result"].get("value")

    def look(self, url: str, width: int, dark: bool) -> Page:
        """Returns what a page looks like in a window of `width` pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events = []
        self.call("Page.navigate", url="about:blank")
        self.wait("Page.loadEventFired")
        self.events = []
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        measured = self.evaluate(MEASURE)
        clip = {"x": 0, "y": 0, "width": width, "scale": 1}
        clip["height"] = min(measured["height"], TALLEST)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return Page(measured, self.events, base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self.session = None
        with contextlib.suppress(SystemExit, OSError, ValueError):  # it may have ended already
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.answers, self.to):
            with contextlib.suppress(OSError):
                pipe.close()


def faults(page: Page, base: str) -> list[str]:
    """Returns what is wrong with a page of the site at `base`, a sentence for each."""
    m = page.measured
    found = []
    if m["scroll"] > m["width"]:
        found.append(f"{m['scroll']} pixels wide in a window of {m['width']}")
    for key, words in WORDS.items():
        found += [f"{words}: {each}" for each in m[key]]
    for event in page.events:
        kind, params = event["method"], event.get("params", {})
        if kind == "Network.requestWillBeSent":
            url = params["request"]["url"]
            found += [] if url.startswith((base, "data:", "blob:")) else [f"leaves the site: {url}"]
        elif kind == "Runtime.exceptionThrown":
            found.append(f"error: {params['exceptionDetails']['text']}")
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            found.append(
                f"error: {params['entry']['text']} {params['entry'].get('url', '')}".strip()
            )
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            said = " ".join(str(each.get("value", "")) for each in params["args"])
            found.append(f"error: {said}".strip())
    return list(dict.fromkeys(found))


def pages(site: Path) -> list[str]:
    """Returns the places of a built site's pages."""
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


def picture(place: str, width: int, dark: bool) -> str:
    """Returns the file name of a page's picture."""
    return f"{place.removesuffix('.html').replace('/', '.')}.{width}{'.dark' if dark else ''}.png"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Yields the address at which a folder is served on this machine."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def look_at(site: Path, out: Path, program: str) -> list[str]:
    """Returns the faults of a built site, "page, width: fault"; its pictures are in `out`."""
    found = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        base = stack.enter_context(served(site))
        browser = Browser(program, folder)
        stack.callback(browser.close)
        for place in pages(site):
            for width, dark in WINDOWS:
                page = browser.look(base + place, width, dark)
                (out / picture(place, width, dark)).write_bytes(page.png)
                found += [f"{place}, {width}: {fault}" for fault in faults(page, base)]
        disk = f"{site.resolve().as_uri()}/"
        for address, words in ((base, "served"), (disk, "opened from disk")):
            page = browser.look(f"{address}index.html", *WINDOWS[0])
            if not browser.evaluate(SEARCH):
                found.append(f"index.html, {words}: the search finds nothing")
            late = page._replace(events=browser.events)  # with those of the search
            found += [f"index.html, {words}: {fault}" for fault in faults(late, address)]
    return found


def main(site: Path = ROOT / "site", out: Path = ROOT / "screenshots") -> int:
    """Returns the exit code: 0 without a fault, or without a browser; 1 with faults; 2 without a site."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        print(f"skipped, nothing was looked at: none of {', '.join(NAMES)} is on PATH")
        return 0
    if not pages(site):
        print(f"{site} has no pages: run make docs first")
        return 2
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    found = look_at(site, out, program)
    print("\n".join([*found, f"{len(pages(site))} pages, {len(found)} faults, pictures in {out}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
