"""A bucket of Google Cloud Storage on this machine: its JSON protocol over HTTP, objects in memory.

Enough of it for the three clients that write a run behind gs://: gcsfs (the log, the config, pictures),
TensorStore (arrays of checkpoints) and google-cloud-storage (what kind of bucket it is). As there, an
object appears whole or not at all, and the last one to write wins.
"""

import contextlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "shelf"
OBJECTS = f"/storage/v1/b/{NAME}/o"


class Bucket:
    """What is in the bucket, and what it refuses."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}  # name -> generation, content
        self.written: list[str] = []  # names of all objects that were ever written, in order
        self.refuses: Callable[[str], bool] = lambda name: (
            False
        )  # asked before an object is written
        self.count, self.uploads, self.lock = 0, {}, threading.Lock()

    def put(self, name: str, content: bytes, only_if: str | None = None) -> int | None:
        """Writes an object and returns its generation; None where it is of another one already."""
        with self.lock:
            if only_if is not None and int(only_if) != self.objects.get(name, (0, b""))[0]:
                return None
            self.count += 1
            self.objects[name] = (self.count, content)
            self.written.append(name)
            return self.count

    def page(self, name: str) -> dict[str, str]:
        """Returns what the protocol says of an object."""
        generation, content = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": NAME,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def listing(self, query: dict[str, str]) -> dict:
        """Returns the objects and folders below a prefix."""
        prefix, mark = query.get("prefix", ""), query.get("delimiter")
        names, folders = [], {}
        for name in sorted(self.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if mark and mark in rest:
                folders[prefix + rest.split(mark)[0] + mark] = None
            else:
                names.append(name)
        if start := query.get("startOffset"):
            names = [name for name in names if name >= start]
        return {"items": [self.page(name) for name in names], "prefixes": [*folders]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers
    bucket: Bucket

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, why: str) -> None:
        self.answer(status, {"error": {"code": status, "message": why, "errors": []}})

    def received(self) -> tuple[str, dict[str, str], bytes]:
        """Returns path, query and body of the request."""
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        return path, dict(urllib.parse.parse_qsl(query)), body

    def chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def do_GET(self):
        path, query, _ = self.received()
        path = path.removeprefix("/download")
        if path == OBJECTS:
            return self.answer(200, self.bucket.listing(query))
        if not path.startswith(f"{OBJECTS}/"):
            known = path == f"/storage/v1/b/{NAME}"
            return self.answer(200, {"name": NAME}) if known else self.refuse(404, "no bucket")
        name = urllib.parse.unquote(path.removeprefix(f"{OBJECTS}/"))
        if name not in self.bucket.objects:
            return self.refuse(404, f"no object {name}")
        generation, content = self.bucket.objects[name]
        if query.get("alt") != "media":
            return self.answer(200, self.bucket.page(name))
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.answer(304)
        headers = {"x_goog_generation": str(generation), "Content_Type": "application/octet-stream"}
        if wanted := re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            size = len(content)
            first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            last = min(size - 1, int(wanted[2])) if wanted[1] and wanted[2] else size - 1
            if first >= size:
                return self.refuse(416, "beyond the end")
            headers["Content_Range"] = f"bytes {first}-{last}/{size}"
            return self.answer(206, content[first : last + 1], **headers)
        return self.answer(200, content, **headers)

    def do_POST(self):
        path, query, body = self.received()
        if path == "/batch/storage/v1":
            return self.batch(body)
        if not path.removeprefix("/upload").startswith(OBJECTS):
            return self.refuse(404, "no bucket")
        if "/rewriteTo/" in path:
            names = path.removeprefix(f"{OBJECTS}/").split(f"/rewriteTo/b/{NAME}/o/")
            source, target = map(urllib.parse.unquote, names)
            return self.store(target, self.bucket.objects[source][1], {}, rewritten=True)
        kind = query["uploadType"]
        if kind == "media":
            return self.store(query["name"], body, query)
        if kind == "multipart":
            mark = body.split(b"\n", 1)[0].strip()
            _, about, data, _ = body.split(mark)
            about = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])
            data = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[1]
            return self.store(about["name"], re.sub(rb"\r?\n$", b"", data), query)
        if "upload_id" in query:
            return self.do_PUT((query, body))
        name = query.get("name") or json.loads(body)["name"]
        number = str(len(self.bucket.uploads))
        self.bucket.uploads[number] = (name, query, bytearray())
        where = f"http://{self.headers['Host']}{path}?uploadType=resumable&upload_id={number}"
        return self.answer(200, {}, Location=where)

    def do_PUT(self, received=None):
        query, body = received or self.received()[1:]
        name, first, parts = self.bucket.uploads[query["upload_id"]]
        parts += body
        if self.headers["Content-Range"].endswith("/*"):
            return self.answer(308, Range=f"bytes=0-{len(parts) - 1}")
        return self.store(name, bytes(parts), first)

    def do_DELETE(self):
        path, _, _ = self.received()
        self.answer(self.delete(path))

    def delete(self, path: str) -> int:
        name = urllib.parse.unquote(path.removeprefix(f"{OBJECTS}/"))
        return 404 if self.bucket.objects.pop(name, None) is None else 204

    def batch(self, body: bytes) -> None:
        paths = re.findall(rb"DELETE (\S+)", body)
        codes = [self.delete(path.decode()) for path in paths]
        rows = (
            f"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {c} X\r\n\r\n" for c in codes
        )
        text = "".join(rows) + "--b--"
        self.answer(200, text.encode(), Content_Type="multipart/mixed; boundary=b")

    def store(self, name: str, content: bytes, query: dict[str, str], *, rewritten=False) -> None:
        if self.bucket.refuses(name):
            return self.refuse(403, "the account has been disabled")
        if self.bucket.put(name, content, query.get("ifGenerationMatch")) is None:
            return self.refuse(412, "of another generation")
        page = self.bucket.page(name)
        return self.answer(200, {"done": True, "resource": page} if rewritten else page)


@contextlib.contextmanager
def serve() -> Iterator[tuple[Bucket, str]]:
    """Yields a new bucket and the address at which it answers."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # gcsfs hangs up on what it no longer wants to know
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield bucket, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def settings(address: str) -> dict[str, str]:
    """Returns the environment in which the clients speak to this address, and to no other."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google by another protocol
    }
