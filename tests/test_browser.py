"""docs/browser.py without a browser: a program that speaks as one stands in; with one, where there is one."""

import base64
import importlib.util
import shutil
import stat
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = "http://127.0.0.1:1/"
GOOD = {
    "width": 390,
    "scroll": 390,
    "height": 10,
    "beyond": [],
    "broken": [],
    "split": [],
    "squeezed": [],
}


def load():
    spec = importlib.util.spec_from_file_location("docs_browser", ROOT / "docs" / "browser.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browser = load()
CHROMIUM = next((found for name in browser.NAMES if (found := shutil.which(name))), None)

# answers every message, with an event before it where a page is opened
FAKE = f"""#!{sys.executable}
import json, os
buffer = b""
while data := os.read(3, 65536):
    buffer += data
    while b"\\0" in buffer:
        message, buffer = buffer.split(b"\\0", 1)
        message = json.loads(message)
        method, params, result = message["method"], message["params"], {{}}
        out, late = [], []
        if method == "Page.navigate" and params["url"] == "about:blank":
            late.append({{"method": "Page.loadEventFired", "params": {{}}}})
        if method == "Target.createTarget":
            result = {{"targetId": "t"}}
        if method == "Target.attachToTarget":
            result = {{"sessionId": "s"}}
        if method == "Page.navigate" and params["url"] != "about:blank":
            request = {{"request": {{"url": params["url"]}}}}
            out.append({{"method": "Network.requestWillBeSent", "params": request}})
            out.append({{"method": "Page.loadEventFired", "params": {{}}}})
        if method == "Runtime.evaluate":
            value = 0 if "search" in params["expression"] else {GOOD!r}
            result = {{"result": {{"value": value}}}}
        if method == "Page.captureScreenshot":
            result = {{"data": "{base64.b64encode(b"png").decode()}"}}
        answer = {{"id": message["id"], "result": result}}
        if method == "Bad":
            answer = {{"id": message["id"], "error": {{"message": "no such thing"}}}}
        for each in [*out, answer, *late]:
            os.write(4, json.dumps(each).encode() + b"\\0")
        if method == "Browser.close":
            raise SystemExit
"""


@pytest.fixture
def fake(tmp_path):
    program = tmp_path / "fake-browser"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def page(events=(), **measured):
    return browser.Page({**GOOD, **measured}, list(events), b"")


def test_a_good_page_has_no_faults():
    own = {"method": "Network.requestWillBeSent", "params": {"request": {"url": f"{BASE}a.css"}}}
    assert browser.faults(page([own]), BASE) == []


def test_every_fault_is_said():
    def event(method, **params):
        return {"method": method, "params": params}

    events = [
        event("Network.requestWillBeSent", request={"url": "https://example.org/font"}),
        event("Network.requestWillBeSent", request={"url": "https://example.org/font"}),
        event("Runtime.exceptionThrown", exceptionDetails={"text": "Uncaught"}),
        event("Log.entryAdded", entry={"level": "error", "text": "404", "url": f"{BASE}x"}),
        event("Log.entryAdded", entry={"level": "info", "text": "fine"}),
        event("Runtime.consoleAPICalled", type="error", args=[{"value": "told"}]),
        event("Runtime.consoleAPICalled", type="log", args=[{"value": "fine"}]),
    ]
    bad = page(
        events,
        scroll=500,
        beyond=["pre x"],
        broken=["y.png"],
        split=["code z"],
        squeezed=["td a b"],
    )
    assert browser.faults(bad, BASE) == [
        "500 pixels wide in a window of 390",
        "overflows: pre x",
        "broken: y.png",
        "broken amid: code z",
        "squeezed: td a b",
        "leaves the site: https://example.org/font",
        "error: Uncaught",
        f"error: 404 {BASE}x",
        "error: told",
    ]


def test_pages_and_their_pictures(tmp_path):
    (tmp_path / "api").mkdir()
    for place in ("index.html", "api/index.html", "a.css"):
        (tmp_path / place).touch()
    assert browser.pages(tmp_path) == ["api/index.html", "index.html"]
    assert browser.picture("api/index.html", 390, False) == "api.index.390.png"
    assert browser.picture("index.html", 768, True) == "index.768.dark.png"


def test_a_site_is_looked_at_by_messages_through_a_pipe(tmp_path, fake):
    site, out = tmp_path / "site", tmp_path / "out"
    site.mkdir(), out.mkdir()
    (site / "index.html").write_text("<p>x</p>")
    found = browser.look_at(site, out, fake)
    assert found == [
        "index.html, served: the search finds nothing",
        "index.html, opened from disk: the search finds nothing",
    ]
    names = {browser.picture("index.html", *window) for window in browser.WINDOWS}
    assert {path.name for path in out.iterdir()} == names
    assert all(path.read_bytes() == b"png" for path in out.iterdir())


def test_what_a_browser_refuses_is_said(tmp_path, fake):
    tab = browser.Browser(fake, str(tmp_path))
    try:
        with pytest.raises(SystemExit, match="Bad: no such thing"):
            tab.call("Bad")
    finally:
        tab.close()
    with pytest.raises(SystemExit, match="has ended"):
        browser.Browser("false", str(tmp_path))


def test_without_a_browser_it_says_that_nothing_was_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.main(tmp_path, tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("skipped, nothing was looked at")


def test_without_a_site_it_says_how_to_build_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(browser, "NAMES", ("sh",))
    assert browser.main(tmp_path, tmp_path / "out") == 2
    assert "make docs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")
def test_a_chromium_sees_what_is_wrong(tmp_path):
    site, out = tmp_path / "site", tmp_path / "out"
    site.mkdir(), out.mkdir()
    (site / "index.html").write_text(
        '<body class="md-content"><div style="width:2000px">wide</div><img src="gone.png">'
        '<table style="width:40px;table-layout:fixed"><td>a b c d e f g h<td><code style="word-break:break-all">'
        'models.translation</code></table><script>console.error("told"); none()</script>'
        '<link rel="stylesheet" href="http://localhost:1/foreign.css">'
    )
    found = "\n".join(browser.look_at(site, out, CHROMIUM))
    for words in (
        "2008 pixels wide",
        "overflows: div wide",
        "broken: http",
        "broken amid: code models",
    ):
        assert f"index.html, 390: {words}" in found
    for words in ("leaves the site: http://localhost:1/", "error: told", "error: Uncaught"):
        assert f"index.html, 1400: {words}" in found
    assert (out / "index.390.png").read_bytes().startswith(b"\x89PNG")
