"""A small hub on this machine, which speaks as much of its protocol as a model's way takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0" * 39 + "1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    log: list[str]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        self.log.append(format % args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        repo = "owner/name"
        if self.path == "/api/repos/create":
            self._answer({"url": f"http://{self.headers['Host']}/{repo}", "name": repo})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.startswith(f"/api/models/{repo}/preupload/"):
            named = json.loads(body)["files"]
            kept = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": each["path"], **kept} for each in named]})
        elif self.path.startswith(f"/api/models/{repo}/commit/"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT})
        else:
            self._answer({"error": "no such page"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = unquote(self.path.split("?")[0]).removeprefix("/owner/name/resolve/main/")
        name = name.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if self.path.startswith("/api/models/owner/name"):
            self._answer({"id": "owner/name", "sha": COMMIT, "siblings": []})
        elif name in self.files:
            self._send(200, self.files[name], "application/octet-stream")
        else:
            self._answer({"error": "Entry not found"}, 404)

    def _answer(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve_hub() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """Serve one repository, `owner/name`: address, its files, and a line for each request."""
    files: dict[str, bytes] = {}
    log: list[str] = []
    handler = type("Handler", (_Handler,), {"files": files, "log": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files, log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
