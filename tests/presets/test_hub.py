"""The Hugging Face Hub, by a stand-in on this machine: what is sent is fetched, an upload that fails
changes nothing, what is no model of ours is refused in a line."""

import os
import subprocess
import sys

import huggingface_hub
import pytest

import fake_hub
from jaxvae.errors import UserError
from jaxvae.presets import hub, released

# huggingface_hub uploads by a call that its own HTTP library has replaced
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "me/vae.mnist"
CONTENTS = {name: f"content of {name}".encode() for name in released.FILES}


@pytest.fixture
def there(tmp_path, monkeypatch):
    with fake_hub.instead(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "model" / name).write_bytes(content)
    (tmp_path / "model" / "notes.txt").write_text("of nobody's business")
    return tmp_path / "model"


def refused(function, *args, **options):
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    return str(raised.value)


def files_of(there):
    return {name: content for name, content in there.repos[NAME].items() if name[0] != "."}


def test_what_is_sent_is_fetched_and_a_second_time_replaced(there, folder):
    assert hub.send(folder, NAME).endswith(f"/{NAME}")
    assert files_of(there) == CONTENTS and NAME not in there.private
    found = hub.fetch(NAME)
    assert {path.name: path.read_bytes() for path in found.iterdir()} == CONTENTS
    (folder / released.EVALUATION).unlink()
    (folder / released.MODEL).write_bytes(b"other weights")
    there.repos[NAME]["own.md"] = b"a file of its owner"
    hub.send(folder, NAME, message="better")
    assert files_of(there)[released.MODEL] == b"other weights"
    assert released.EVALUATION not in files_of(there) and "own.md" in files_of(there)
    again = hub.fetch(NAME)  # another commit, another folder: who has loaded the first keeps it
    assert again != found and (again / released.MODEL).read_bytes() == b"other weights"
    assert not (again / "own.md").exists()


def test_a_new_repository_is_private_where_that_is_asked_for(there, folder):
    hub.send(folder, NAME, private=True)
    assert NAME in there.private
    there.private.clear()
    before = files_of(there)
    (folder / released.MODEL).write_bytes(b"other weights")
    assert "is there already, and is public" in refused(hub.send, folder, NAME, private=True)
    assert files_of(there) == before


@pytest.mark.parametrize("where", ["PUT /storage", "POST /api/models/me/vae.mnist/commit"])
def test_an_upload_that_fails_half_way_changes_nothing_and_can_be_tried_again(there, folder, where):
    hub.send(folder, NAME)
    (folder / released.MODEL).write_bytes(b"other weights")
    there.refuses = lambda request: 403 * request.startswith(where)
    said = refused(hub.send, folder, NAME)
    assert said.startswith(f"cannot push to {NAME} (") and "hf auth login" in said
    assert files_of(there) == CONTENTS
    assert any(request.startswith("POST /me/vae.mnist.git/info/lfs") for request in there.requests)
    there.refuses = lambda request: 0
    hub.send(folder, NAME)
    assert files_of(there)[released.MODEL] == b"other weights"


def test_a_hub_that_breaks_says_that_nothing_has_changed(there, folder):
    there.refuses = lambda request: 500 * ("/commit/" in request)
    assert refused(hub.send, folder, NAME).endswith("try again. No file there has changed.")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "pytorch_model.bin"], "holds pickles (pytorch_model.bin), which can run"),
        (["a.pt", "b.pkl", released.MODEL], "holds pickles (a.pt, b.pkl)"),
        ([released.MODEL], "holds no model of jaxvae: there is no config.json"),
        ([], "holds no model of jaxvae: there is no model.safetensors"),
    ],
)
def test_a_repository_without_a_model_of_ours_is_refused_and_nothing_fetched(there, files, message):
    there.repos[NAME] = dict.fromkeys(files, b"x")
    assert message in refused(hub.fetch, NAME)
    assert not any("/resolve/" in request for request in there.requests)


def test_what_is_not_there_and_who_may_not(there):
    assert "cannot fetch me/nowhere (404" in (said := refused(hub.fetch, "me/nowhere"))
    assert said.endswith("check the name; for a private one log in with `hf auth login`.")
    there.refuses = lambda request: 401
    assert "log in with `hf auth login`" in refused(hub.fetch, NAME)


def test_a_hub_that_does_not_answer(monkeypatch):
    monkeypatch.delenv("JAXVAE_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "check the network, HF_ENDPOINT and the disk" in refused(hub.fetch, NAME)


@pytest.mark.parametrize("forbids", ["JAXVAE_OFFLINE", "HF_HUB_OFFLINE"])
def test_without_a_net_a_model_is_as_it_was_fetched_last(there, folder, monkeypatch, forbids):
    def offline(is_so):
        if forbids == "JAXVAE_OFFLINE":
            monkeypatch.setenv(forbids, str(int(is_so)))
        else:
            monkeypatch.setattr(huggingface_hub.constants, forbids, is_so)

    first = hub.send(folder, NAME) and hub.fetch(NAME)
    (folder / released.MODEL).write_bytes(b"other weights")
    hub.send(folder, NAME)
    before = list(there.requests)
    offline(True)
    assert hub.fetch(NAME) == first
    assert f"not in its cache here, and {forbids} forbids" in refused(hub.fetch, "me/other")
    assert there.requests == before  # nobody is asked
    offline(False)
    second = hub.fetch(NAME)
    offline(True)
    assert hub.fetch(NAME) == second != first
    (second / released.CONFIG).unlink()  # half of it
    assert "forbids to fetch" in refused(hub.fetch, NAME)


def test_a_model_that_was_fetched_outlives_its_hub(there, folder, monkeypatch, capsys):
    hub.send(folder, NAME)
    found, count = hub.fetch(NAME), len(there.requests)
    assert hub.fetch(NAME) == found  # asked once, and nothing fetched again
    assert [line.split()[1] for line in there.requests[count:]] == [f"/api/models/{NAME}"]
    there.refuses = lambda request: 403  # an answer is no net that is down
    assert "cannot fetch" in refused(hub.fetch, NAME)
    for status in (501, 429):
        there.refuses = lambda request, status=status: status
        assert hub.fetch(NAME) == found
    capsys.readouterr()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch(NAME) == found
    said = capsys.readouterr().err
    assert said.startswith(f"jaxvae: {NAME} is as it was fetched last: no Hub (")
    assert said.count("\n") == 1
    assert "check the network" in refused(hub.fetch, "me/other")


def test_a_cache_that_cannot_be_written_is_read(there, folder, monkeypatch):
    hub.send(folder, NAME)
    found = hub.fetch(NAME)
    note = found.parents[1] / "refs" / "main"
    assert note.read_text() == found.name
    note.unlink()
    note.parent.rmdir()
    note.parent.write_text("in the way")
    assert hub.fetch(NAME) == found


def test_a_process_that_has_not_used_the_client_yet():
    script = f"from jaxvae.presets import hub\nhub.fetch({NAME!r})"
    here = {**os.environ, "JAXVAE_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=here, capture_output=True, text=True, check=False
    )
    assert "check the network" in done.stderr.splitlines()[-1]


def test_without_the_package_without_a_net_and_without_a_name(monkeypatch, tmp_path):
    assert "JAXVAE_OFFLINE forbids to fetch" in refused(hub.fetch, NAME)
    for name in (
        "mnist",
        "me/",
        "a/b/c",
        "../x",
        "me/x y",
        "me/x\n",
        "a/b..c",
        "a/b--c",
        "a/b.",
        "a/" + "b" * 95,
    ):
        assert "give USER/NAME" in refused(hub.fetch, name)
        assert "give USER/NAME" in refused(hub.send, tmp_path, name)
    monkeypatch.delenv("JAXVAE_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for function, args in ((hub.fetch, (NAME,)), (hub.send, (tmp_path, NAME))):
        assert "pip install 'jaxvae[hub]'" in refused(function, *args)
