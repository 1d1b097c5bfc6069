"""The Hugging Face Hub on this machine: the few endpoints that `huggingface_hub` asks to make a
repository, to commit to it, and to fetch from it; repositories in memory.

As there, a large file is uploaded before the commit that names it, and a commit is whole or not at all.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What is there, and what is refused."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}  # USER/NAME -> file -> content
        self.private: set[str] = set()
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256
        self.requests: list[str] = []  # "METHOD path", in order
        # "METHOD path" -> HTTP status with which it is refused, 0: it is not
        self.refuses: Callable[[str], int] = lambda request: 0

    def commit_of(self, name: str) -> str:
        """Returns the commit that a repository is at: a name of its content."""
        content = repr(sorted(self.repos[name].items())).encode()
        return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        kind = "application/json" if isinstance(body, dict) else "application/octet-stream"
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_all(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, path = self.rfile.read(length), self.path.partition("?")[0]
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        if status := self.hub.refuses(request):
            return self.answer(status, {"error": "refused"})
        for pattern, reply in ROUTES.items():
            if found := re.fullmatch(pattern, request):
                return reply(self, *found.groups(), body=body)
        return self.answer(404, {"error": f"no such endpoint: {request}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_all

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, X_Error_Code=code)

    # ---- replies -------------------------------------------------------------------------------

    def create(self, *, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        there = name in self.hub.repos
        if not there:
            self.hub.repos[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            if wanted.get("visibility") == "private":
                self.hub.private.add(name)
        url = f"http://{self.headers['Host']}/{name}"
        self.answer(409 if there else 200, {"url": url, "error": "it is there" if there else None})

    def info(self, name: str, *, body: bytes) -> None:
        if name not in self.hub.repos:
            return self.missing("RepoNotFound")
        files = [{"rfilename": file} for file in self.hub.repos[name]]
        page = {"id": name, "sha": self.hub.commit_of(name), "private": name in self.hub.private}
        return self.answer(200, {**page, "siblings": files, "tags": []})

    def validate(self, *, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, *, body: bytes) -> None:
        def mode(file: str) -> str:
            return "lfs" if file.endswith(".safetensors") else "regular"

        files = [
            {"path": each["path"], "uploadMode": mode(each["path"]), "shouldIgnore": False}
            for each in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, name: str, *, body: bytes) -> None:
        where = f"http://{self.headers['Host']}/storage"
        objects = [
            {**each, "actions": {"upload": {"href": f"{where}/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str, *, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "another content"})
        self.hub.stored[oid] = body
        return self.answer(200)

    def commit(self, name: str, *, body: bytes) -> None:
        files = dict(self.hub.repos[name])
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.hub.repos[name] = files
        url = f"http://{self.headers['Host']}/{name}/commit/x"
        self.answer(200, {"commitUrl": url, "commitOid": self.hub.commit_of(name)})

    def resolve(self, name: str, sha: str, file: str, *, body: bytes) -> None:
        if name not in self.hub.repos:
            return self.missing("RepoNotFound")
        if file not in self.hub.repos[name]:
            return self.missing("EntryNotFound")
        content = self.hub.repos[name][file]
        mark = hashlib.sha1(content).hexdigest()
        return self.answer(200, content, ETag=f'"{mark}"', X_Repo_Commit=sha)


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    r"POST /api/repos/create": _Handler.create,
    rf"GET /api/models/{REPO}": _Handler.info,
    r"POST /api/validate-yaml": _Handler.validate,
    rf"POST /api/models/{REPO}/preupload/main": _Handler.preupload,
    rf"POST /{REPO}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /storage/(\w+)": _Handler.store,
    rf"POST /api/models/{REPO}/commit/main": _Handler.commit,
    rf"(?:GET|HEAD) /{REPO}/resolve/(\w+)/(.+)": _Handler.resolve,
}


@contextlib.contextmanager
def serve() -> Iterator[tuple[Hub, str]]:
    """Yields an empty Hub and the address at which it answers."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def instead(monkeypatch, cache) -> Iterator[Hub]:
    """Yields a Hub that `huggingface_hub` asks in place of the real one, with `cache` as its cache and
    nobody's token; large files go by the protocol that it has beside its own."""
    from huggingface_hub import constants

    with serve() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.delenv("JAXVAE_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setenv("HF_TOKEN", "nobody")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub
