"""What the site has beside the pages of docs/: the API, a page for each room of the package, and the
experiments' pages with their figures.

A link of a page is written as the repository has it, so that it works there, too. On the site it leads
to the page made of that file; what the site does not have stays as plain text.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxvae"
ROOMS = ("models", "nets", "data", "metrics", "train", "presets", "testing", "cli")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
IMAGE = re.compile(r'(<img [^>]*src=")([^"]+)(")')  # as Markdown allows it, for its width
CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)
PICTURES = (".png", ".svg", ".jpg")


def modules(folder: Path) -> list[str]:
    """Returns the dotted names of the public modules directly in a folder, by name."""
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    prefix = ".".join(folder.relative_to(ROOT).parts)
    return [f"{prefix}.{name}" for name in sorted(names)]


def api_pages() -> dict[str, str]:
    """Returns place on the site -> Markdown of the API: the ground, then a page for each room."""
    pages = {"api/index.md": _entries("jaxvae", modules(PACKAGE))}
    for room in ROOMS:
        pages[f"api/{room}.md"] = _entries(f"jaxvae.{room}", modules(PACKAGE / room))
    return pages


def _entries(room: str, names: list[str]) -> str:
    """Returns Markdown: the room is the page's heading; what it only imports stands in its modules."""
    options = "    options:\n      heading_level: 1\n"
    options += "      members: false\n" if room != "jaxvae" else ""
    entries = "".join(f"::: {name}\n\n" for name in names)
    return f"---\ntitle: {room}\n---\n\n::: {room}\n{options}\n{entries}"


def places() -> dict[str, str]:
    """Returns file of the repository -> its place on the site, for all that the site shows."""
    found = {
        f"docs/{p.relative_to(ROOT / 'docs')}": str(p.relative_to(ROOT / "docs")) for p in _docs()
    }
    found |= {"experiments/README.md": "experiments/index.md", "CHANGELOG.md": "changelog.md"}
    found |= {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
    for page in sorted((ROOT / "experiments").glob("*/README.md")):
        found[str(page.relative_to(ROOT))] = f"experiments/{page.parent.name}.md"
    pictures = (*ROOT.glob("experiments/*/figures/**/*.png"), *ROOT.glob("jaxvae/zoo/**/*.png"))
    for picture in sorted(pictures):
        found[str(picture.relative_to(ROOT))] = str(picture.relative_to(ROOT))
    return found


def _docs() -> list[Path]:
    kinds = (".md", *PICTURES)
    return sorted(path for path in (ROOT / "docs").rglob("*") if path.suffix in kinds)


def rewritten(text: str, file: str, place: str, known: dict[str, str]) -> str:
    """Returns the Markdown of a file with the links of its place on the site.

    Args:
        text: of `file`, a path in the repository.
        place: where the site has it.
        known: of `places`.
    """

    def there(path: str) -> str | None:
        """Returns where the site has a path of the page; None where it does not have it."""
        wanted = os.path.normpath(os.path.join(os.path.dirname(file), path))
        page = next((w for w in (wanted, f"{wanted}/README.md") if w in known), None)
        return None if page is None else os.path.relpath(known[page], os.path.dirname(place) or ".")

    def link(match: re.Match) -> str:
        sign, words, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in path or not path or target.startswith("mailto:"):
            return match[0]
        found = there(path)
        if found is not None:
            return f"{sign}[{words}]({found}{hash_}{anchor})"
        is_there = (ROOT / os.path.dirname(file) / path).exists()
        return words if is_there else match[0]  # a broken one is mkdocs' to tell

    def image(match: re.Match) -> str:
        return f"{match[1]}{there(match[2]) or match[2]}{match[3]}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)  # code stays as it is
    return "".join(
        part if part.startswith("```") else IMAGE.sub(image, LINK.sub(link, part)) for part in parts
    )


def roomy(html: str) -> str:
    """Returns HTML in which cells of eight words or more have the class "long", for room in narrow
    windows, unless they have another."""

    def cell(match: re.Match) -> str:
        words = re.sub(r"<[^>]+>", "", match[2]).split()
        is_long = len(words) >= 8 and "class=" not in match[1]
        return f'<td class="long"{match[1]}>{match[2]}</td>' if is_long else match[0]

    return CELL.sub(cell, html)


def broken(site: Path) -> list[str]:
    """Returns "page: link" for every link, picture and anchor of a built site that is not there."""
    pages = {page.resolve(): page.read_text() for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    found = []
    for page, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text) if page.name != "404.html" else ():
            path, _, anchor = link.partition("#")
            if ":" in path:  # elsewhere
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            lost = anchor and target in pages and anchor not in anchors[target]
            if not target.exists() or lost:
                found.append(f"{page.relative_to(site.resolve())}: {link}")
    return found


# ---- what mkdocs calls ---------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Returns the configuration whose navigation has the pages that are made here."""
    tables = [place for file, place in places().items() if file.startswith("experiments/")]
    made = {
        "experiments/": [place for place in tables if place.endswith(".md")],
        "api/": list(api_pages()),
    }
    config.nav = [
        {name: made.get(page, page) if isinstance(page, str) else page}
        for entry in config.nav
        for name, page in entry.items()
    ]
    config.nav.append({"Project": ["changelog.md", "contributing.md"]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Returns the files of the site: those of docs/, and those that are made here."""
    from mkdocs.structure.files import File

    for place, text in api_pages().items():
        files.append(File.generated(config, place, content=text))
    for file, place in places().items():
        if not file.startswith("docs/") and file != "README.md":
            files.append(File.generated(config, place, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Returns a page's Markdown with the links of the site."""
    known = places()
    place = page.file.src_uri
    file = next((f for f, p in known.items() if p == place and f != "README.md"), None)
    return markdown if file is None else rewritten(markdown, file, place, known)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Returns a page's HTML with room for long cells."""
    return roomy(html)


def on_post_build(config: Any) -> None:
    """Raises an error where the site has a link that leads nowhere: mkdocs sees those of Markdown
    alone."""
    if found := broken(Path(config.site_dir)):
        raise SystemExit(f"links that lead nowhere: {', '.join(found)}")
