"""The documentation site: every page has its place, every link leads somewhere, every public module is
in the API. The site itself is built by `make docs`."""

import dataclasses
import importlib
import importlib.util
import math
import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from jaxvae.cli.options import COMMANDS
from jaxvae.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def load_hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def nav_pages(nav):
    """Yields the pages of mkdocs' navigation."""
    for entry in nav:
        for page in entry.values():
            yield from [page] if isinstance(page, str) else nav_pages(page)


def config():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    wanted = sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)
    found = [page for page in nav_pages(config()["nav"]) if not page.endswith("/")]
    assert sorted(found) == wanted
    made = [page for page in nav_pages(config()["nav"]) if page.endswith("/")]
    assert made == ["experiments/", "api/"]  # of hooks.py


def anchors(page):
    """Returns the anchors of a page's headings, as both GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"[\s]+", "-", each) for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_page_and_its_heading(page):
    text = CODE.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_pages_and_pictures_that_docs_lead_to_are_on_the_site():
    """What the site lacks would be words without a link there."""
    known, missing = hooks.places(), []
    for page in PAGES:
        for link in re.findall(r"[(\"](\.\./[^)#\s\"]+)", CODE.sub("", page.read_text())):
            file = str((page.parent / link).resolve().relative_to(ROOT))
            if file not in known and f"{file}/README.md" not in known:
                missing.append((page.name, link))
    assert missing == []


def test_every_public_module_is_in_the_api_once():
    listed = [
        name
        for text in hooks.api_pages().values()
        for name in re.findall(r"^::: (\S+)$", text, re.M)
    ]
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "jaxvae").rglob("*.py")
        if path.name == "__init__.py" or not path.name.startswith("_")
    }
    assert len(listed) == len(set(listed)) and set(listed) == found


def test_links_of_a_page_become_those_of_the_site():
    known = {
        "docs/a.md": "a.md",
        "experiments/x/README.md": "experiments/x.md",
        "experiments/x/figures/y.png": "experiments/x/figures/y.png",
    }

    def rewrite(text, file="docs/a.md", place="a.md"):
        return hooks.rewritten(text, file, place, known)

    assert rewrite("[x](../experiments/x/README.md#s)") == "[x](experiments/x.md#s)"
    assert rewrite("[x](../experiments/x/)") == "[x](experiments/x.md)"
    assert rewrite("![y](../experiments/x/figures/y.png)") == "![y](experiments/x/figures/y.png)"
    picture = '<img src="{}" width="9">'
    there = picture.format("experiments/x/figures/y.png")
    assert rewrite(picture.format("../experiments/x/figures/y.png")) == there
    assert rewrite("[c](../setup.cfg)") == "c"  # the repository has it, the site has not
    for same in ("[w](https://example.org/a.md)", "[s](#s)", "[b](nowhere.md)"):
        assert rewrite(same) == same
    code = "```\n[c](../setup.cfg)\n```"
    assert rewrite(code) == code
    there = ("experiments/x/README.md", "experiments/x.md")
    assert rewrite("![y](figures/y.png)", *there) == "![y](x/figures/y.png)"
    assert rewrite("[a](../../docs/a.md)", *there) == "[a](../a.md)"


def test_cells_of_many_words_get_room():
    short, long = "<td>a <code>b</code></td>", '<td style="x">a b c d\n<code>e f</code> g h</td>'
    assert hooks.roomy(short + long) == short + long.replace("<td", '<td class="long"')
    mine = long.replace("<td", '<td class="mine"')
    assert hooks.roomy(mine) == mine


def test_links_of_a_built_site_that_lead_nowhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text('<h1 id="top"><a href="../b.html#here">b</a></h1>')
    (tmp_path / "b.html").write_text(
        '<a href="a/#top"><img src="c.png"><a href="a/#bottom"><a href="https://example.org/d">'
    )
    assert sorted(hooks.broken(tmp_path)) == [
        "a/index.html: ../b.html#here",
        "b.html: a/#bottom",
        "b.html: c.png",
    ]
    (tmp_path / "c.png").touch()
    page = tmp_path / "b.html"
    page.write_text(page.read_text().replace("#bottom", "") + '<p id="here">')
    assert hooks.broken(tmp_path) == []


def test_the_navigation_gets_what_is_made():
    guides = {"Guides": [{"Data": "data.md"}]}
    nav = types.SimpleNamespace(nav=[{"Tables": "experiments/"}, guides, {"API": "api/"}])
    made = {name: pages for entry in hooks.on_config(nav).nav for name, pages in entry.items()}
    assert "experiments/vae.md" in made["Tables"] and "experiments/index.md" in made["Tables"]
    assert not [page for page in made["Tables"] if page.endswith(".png")]
    assert made["Guides"] == [{"Data": "data.md"}]
    assert {"api/index.md", "api/models.md"} <= set(made["API"])
    assert "mkdocs" not in sys.modules  # which tests do not need


def test_what_stands_in_our_column_beside_other_libraries_exists():
    """In `peers.md`: a public name, a command, an option of some preset, or the experiments."""
    rows = re.findall(
        r"^\| (?!---)([^|]+)\|([^|]*)\|", (ROOT / "docs" / "peers.md").read_text(), re.M
    )
    options = {
        f"--{field.name.replace('_', '-')}"
        for preset in PRESETS.values()
        for field in dataclasses.fields(preset.options)
    }
    names = [name for _, cell in rows for name in re.findall(r"`([^`]+)`", cell)]
    assert len(names) > 40
    for name in names:
        if name.startswith("--"):
            assert name in options, name
        elif name.startswith("jaxvae "):
            assert name.split()[1] in [*COMMANDS, "train"], name
        elif name == "experiments":
            assert (ROOT / name / "README.md").exists()
        else:
            module, _, attribute = name.rpartition(".")
            assert callable(getattr(importlib.import_module(f"jaxvae.{module}"), attribute)) or (
                name == "distributions.CONVENTIONS"
            ), name


def test_where_kls_rest_is_computed_by_the_formula_beside_it():
    text = " ".join((ROOT / "docs" / "soft_intro_vae.md").read_text().split())

    def rest(beta_neg, values):
        return f"{math.log(beta_neg) / (2 / values * beta_neg):.0f}"

    first, second, third = (rest(beta_neg, 1024) for beta_neg in (16, 128, 256))
    assert (
        f"at {first} nats with a `beta_neg` of 16, at {second} with 128, at {third} with 256"
        in text
    )
    assert f"gives {rest(10, 784)} nats for a z of 10 on MNIST" in text
    assert f"the zoo's 128 gives {rest(128, 784)}." in text
