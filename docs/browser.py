"""`make screenshots` looks at the built site in a browser.

Every page is opened by a Chromium of this machine, wide and narrow: pictures go into screenshots/, and
what is wrong is said with its page and width. Playwright (extra `screenshots`) speaks to the browser.
"""

import contextlib
import functools
import http.server
import importlib.util
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WINDOWS = ((1400, False), (768, True), (390, False))  # width in pixels, dark
TALLEST = 8000  # pixels of a page in its picture
PATIENCE = 10_000  # milliseconds for what a search finds

WORDS = {  # measured -> what is said of it
    "beyond": "overflows",
    "broken": "broken",
    "split": "broken amid",
    "squeezed": "squeezed",
}

MEASURE = """async () => {
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
}"""


class Seen(NamedTuple):
    """What a browser says of one page at one width."""

    measured: dict[str, Any]
    requested: list[str]  # addresses
    told: list[str]  # errors and warnings
    png: bytes


class Tab:
    """A page that is open, and what it asks for and tells since."""

    def __init__(self, browser: "Browser", url: str, width: int, dark: bool):
        scheme = "dark" if dark else "light"
        window = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = window.new_page()
        self.requested: list[str] = []
        self.told: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("console", self._console)
        self.page.goto(url)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.told.append(f"{message.text} {message.location.get('url', '')}".strip())

    def seen(self) -> Seen:
        """Returns what the page looks like."""
        measured = self.page.evaluate(MEASURE)
        clip = {"x": 0, "y": 0, "width": measured["width"]}
        clip["height"] = min(measured["height"], TALLEST)
        png = self.page.screenshot(full_page=True, clip=clip)
        return Seen(measured, self.requested, self.told, png)

    def finds(self, words: str) -> bool:
        """Returns whether the site's search finds anything."""
        from playwright.sync_api import TimeoutError

        try:
            field = self.page.locator(".md-search__input")
            field.press_sequentially(words, timeout=PATIENCE)
            found = self.page.locator(".md-search-result__item").first
            found.wait_for(state="attached", timeout=PATIENCE)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Closes its window."""
        self.page.context.close()


def faults(seen: Seen, base: str) -> list[str]:
    """Returns what is wrong with a page of the site at `base`, a sentence for each."""
    m = seen.measured
    found = []
    if m["scroll"] > m["width"]:
        found.append(f"{m['scroll']} pixels wide in a window of {m['width']}")
    for key, words in WORDS.items():
        found += [f"{words}: {each}" for each in m[key]]
    inside = (base, "data:", "blob:")
    found += [f"leaves the site: {url}" for url in seen.requested if not url.startswith(inside)]
    found += [f"error: {words}" for words in seen.told]
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
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright, served(site) as base:
        browser = playwright.chromium.launch(executable_path=program)
        for place in pages(site):
            for width, dark in WINDOWS:
                tab = Tab(browser, base + place, width, dark)
                seen = tab.seen()
                (out / picture(place, width, dark)).write_bytes(seen.png)
                found += [f"{place}, {width}: {fault}" for fault in faults(seen, base)]
                tab.close()
        disk = f"{site.resolve().as_uri()}/"
        for address, words in ((base, "served"), (disk, "opened from disk")):
            tab = Tab(browser, f"{address}index.html", *WINDOWS[0])
            if not tab.finds("gamma"):
                found.append(f"index.html, {words}: the search finds nothing")
            found += [f"index.html, {words}: {fault}" for fault in faults(tab.seen(), address)]
            tab.close()
        browser.close()
    return found


def main(site: Path = ROOT / "site", out: Path = ROOT / "screenshots") -> int:
    """Returns the exit code: 0 without a fault, or without a browser; 1 with faults; 2 without a site or
    Playwright."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        print(f"skipped, nothing was looked at: none of {', '.join(NAMES)} is on PATH")
        return 0
    if importlib.util.find_spec("playwright") is None:
        print("playwright is not here: python -m pip install 'jaxvae[screenshots]'")
        return 2
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
