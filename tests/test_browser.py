"""docs/browser.py: what is a fault, and what a Chromium sees, where there is one with Playwright."""

import importlib.util
import shutil
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


def page(requested=(), told=(), **measured):
    return browser.Seen({**GOOD, **measured}, list(requested), list(told), b"")


def test_a_good_page_has_no_faults():
    assert browser.faults(page([f"{BASE}a.css", "data:image/png;base64,"]), BASE) == []


def test_every_fault_is_said_once():
    bad = page(
        ["https://example.org/font"] * 2,
        ["Uncaught", "404 x"],
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
        "error: 404 x",
    ]


def test_pages_and_their_pictures(tmp_path):
    (tmp_path / "api").mkdir()
    for place in ("index.html", "api/index.html", "a.css"):
        (tmp_path / place).touch()
    assert browser.pages(tmp_path) == ["api/index.html", "index.html"]
    assert browser.picture("api/index.html", 390, False) == "api.index.390.png"
    assert browser.picture("index.html", 768, True) == "index.768.dark.png"


def test_without_a_browser_it_says_that_nothing_was_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.main(tmp_path, tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("skipped, nothing was looked at")


def test_without_playwright_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(browser, "NAMES", ("sh",))
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
    assert browser.main(tmp_path, tmp_path / "out") == 2
    assert "jaxvae[screenshots]" in capsys.readouterr().out


def test_without_a_site_it_says_how_to_build_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(browser, "NAMES", ("sh",))
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: "there")
    assert browser.main(tmp_path, tmp_path / "out") == 2
    assert "make docs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")
def test_a_chromium_sees_what_is_wrong(tmp_path):
    pytest.importorskip("playwright")
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
    for words in ("leaves the site: http://localhost:1/", "error: told", "error: none is not"):
        assert f"index.html, 1400: {words}" in found
    assert found.count("the search finds nothing") == 2
    assert (out / "index.390.png").read_bytes().startswith(b"\x89PNG")
