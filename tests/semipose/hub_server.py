"""As much of a model hub as its client asks for: repositories are made, files committed and downloaded."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name: their files, and whether they are private."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.downloads: list[str] = []
        self.tokens: set[str | None] = set()
        self.address = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """One branch for each question of the client."""

    hub: Hub

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.answer({"error": "not found"}, 404, {"X-Error-Code": code})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            row = json.loads(body)
            name = f"{row['organization']}/{row['name']}" if row.get("organization") else row["name"]
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = row.get("private", row.get("visibility") == "private")
            self.answer({"url": f"{self.hub.address}/{name}"})
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/.*", self.path):
            files = json.loads(body)["files"]
            modes = [{"path": row["path"], "uploadMode": "regular", "shouldIgnore": False} for row in files]
            self.answer({"files": modes})
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/.*", self.path):
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.hub.repositories[match[1]][row["value"]["path"]] = base64.b64decode(
                        row["value"]["content"]
                    )
            url = f"{self.hub.address}/{match[1]}"
            self.answer({"commitUrl": f"{url}/commit/{SHA}", "commitOid": SHA, "success": True})
        else:
            self.answer({})

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/\S+)?", path):
            files = self.hub.repositories.get(match[1])
            if files is None:
                return self.missing("RepoNotFound")
            rows = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            return self.answer({"id": match[1], "sha": SHA, "siblings": rows})
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path):
            content = self.hub.repositories.get(match[1], {}).get(match[2])
            if content is None:
                return self.missing("EntryNotFound")
            if self.command == "GET":
                self.hub.downloads.append(match[2])
            etag = hashlib.sha256(content).hexdigest()
            return self.answer(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
        return self.answer({})

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on 127.0.0.1."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
