"""Tables of READMEs, printed anew by the commands that they name."""

import sys
from pathlib import Path

import pytest

from experiments import blocks, page
from jaxvae import writers
from jaxvae.errors import UserError

ROOT = Path(__file__).parents[1]

TEXT = """# A page

Before it. <!-- a comment --> | not | a table |
<!-- table: python -m {module} one 'two words' -->
old
<!-- end -->
Between: `<!-- end -->` is no block.

<!-- table: python -m {module} -->

| a |

<!-- end -->

After it.
"""
FILLED = """# A page

Before it. <!-- a comment --> | not | a table |
<!-- table: python -m {module} one 'two words' -->

| one/two words |

<!-- end -->
Between: `<!-- end -->` is no block.

<!-- table: python -m {module} -->

|  |

<!-- end -->

After it.
"""
MODULE = """
import sys
if __name__ == "__main__":
    print("| " + "/".join(sys.argv[1:]) + " |\\n")
    print("beside it", file=sys.stderr)
    if sys.argv[1:] == ["fails"]:
        sys.exit(3)
    if sys.argv[1:] == ["breaks"]:
        raise KeyError("x")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Returns the folder of no experiments, beside a module of a name that no other has."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"prints_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    root = tmp_path / "fakes"
    (root / "a").mkdir(parents=True)
    return root, module


def test_a_block_is_filled_and_the_text_around_it_stays(place):
    root, module = place
    for path in (root.parent / "README.md", root / "a" / "README.md"):
        path.write_text(TEXT.format(module=module))
    (root / "README.md").write_text(TEXT)  # the page, which is written as a whole
    found = blocks.refill(root)
    assert found == ([root.parent / "README.md", root / "a" / "README.md"], [])
    for path in found.changed:
        assert path.read_text() == FILLED.format(module=module)
    assert (root / "README.md").read_text() == TEXT
    assert blocks.refill(root) == ([], [])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python -m {module} fails", "`python -m {module} fails` fails with exit code 3."),
        ("python -m {module} breaks", "`python -m {module} breaks` fails: KeyError: 'x'"),
        ("python -m no_such_module", "`python -m no_such_module` fails: ImportError: No module"),
        ("make tables", "`make tables`: a block's command must be python -m MODULE."),
        ("python -m {module} 'x", "`python -m {module} 'x`: No closing quotation."),
    ],
)
def test_a_block_that_cannot_be_filled_stays_and_the_others_go_on(place, command, said):
    root, module = place
    bad = f"<!-- table: {command} -->\nold\n<!-- end -->\n".format(module=module)
    (root / "a" / "README.md").write_text(bad + TEXT.format(module=module))
    [changed], [failed] = blocks.refill(root)
    assert changed.read_text() == bad + FILLED.format(module=module)
    assert failed.startswith(f"{changed}: {said.format(module=module)}")


def test_a_mention_of_the_mark_opens_no_block(place):
    root, module = place
    mention = "Blocks begin with `<!-- table: python -m x -->`, don't they?\n\n"
    (root / "a" / "README.md").write_text(mention + TEXT.format(module=module))
    [changed], failed = blocks.refill(root)
    assert failed == [] and changed.read_text() == mention + FILLED.format(module=module)


def test_the_ends_of_lines_stay(place):
    root, module = place
    path = root / "a" / "README.md"
    path.write_bytes(TEXT.format(module=module).replace("\n", "\r\n").encode())
    assert blocks.refill(root) == ([path], [])
    assert path.read_bytes() == FILLED.format(module=module).replace("\n", "\r\n").encode()


def test_a_block_without_an_end_swallows_nothing(place):
    root, module = place
    open_one = "<!-- table: python -m x -->\n\nold\n\n"
    for text, command in (
        (open_one + TEXT.partition("\n<!-- end -->")[0] + "\n<!-- end -->", "x"),
        (TEXT.replace("<!-- end -->", ""), "{module} one 'two words'"),
    ):
        text = text.format(module=module)
        (root / "a" / "README.md").write_text(text)
        changed, [failed] = blocks.refill(root)
        assert changed == [] and (root / "a" / "README.md").read_text() == text
        assert f"python -m {command.format(module=module)}" in failed and "no end" in failed


def test_the_command_of_the_page_fills_the_tables_of_this_repository(tmp_path, capsys, monkeypatch):
    """Of a copy, in which they are torn out; what is filled in is what is committed. Each table
    against a process of its own: `tests/test_readme.py`."""
    root = tmp_path / "experiments"
    torn = {}
    for path in blocks.pages(ROOT / "experiments"):
        text = path.read_text()
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        torn[copy] = text
        copy.write_text(blocks.BLOCK.sub(r"<!-- table: \g<command> -->\nold\n<!-- end -->", text))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(page, "write", lambda root: [])
    page.main(["--root", str(root)])
    changed = [copy for copy, text in torn.items() if "<!-- table:" in text]
    out = capsys.readouterr().out
    assert out.startswith("the page is as it was.\n")
    assert out.count("its tables are new.\n") == len(changed) > 5
    for copy, text in torn.items():
        assert copy.read_text() == text, copy


def test_what_failed_is_one_line_after_all_else(place, capsys, monkeypatch):
    root, module = place
    monkeypatch.setattr(page, "write", lambda root: ["+ a line"])
    bad = "<!-- table: make tables -->\nold\n<!-- end -->\n"
    (root / "a" / "README.md").write_text(bad + TEXT.format(module=module))
    with pytest.raises(SystemExit) as end:
        page.main(["--root", str(root)])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == "+ a line\nfakes/a/README.md: its tables are new.\n"
    assert err.splitlines()[-1].endswith("must be python -m MODULE.")


def test_a_disk_that_refuses_says_so(place, monkeypatch):
    root, module = place
    (root / "a" / "README.md").write_text(TEXT.format(module=module))

    def full(path, content):
        raise UserError(f"cannot write {path}: it is full.")

    monkeypatch.setattr(writers, "write_bytes", full)
    with pytest.raises(UserError, match="it is full"):
        blocks.refill(root)
    assert (root / "a" / "README.md").read_text() == TEXT.format(module=module)
