"""A Hub of its own: repositories in a folder over HTTP, as far as one commit and a download ask."""

import json
from base64 import b64decode
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "a" * 40
LARGE = (".safetensors", ".mp4")


class Hub(BaseHTTPRequestHandler):
    """Answers for the repositories in `root`; refuses one kind of request."""

    root: Path
    refuses = ""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(pieces)

    def do_GET(self) -> None:
        words = self.path.partition("?")[0].strip("/").split("/")
        if "resolve" in words:
            at = words.index("resolve")
            path = self.root.joinpath(*words[:at], *words[at + 2 :])
            if path.is_file():
                content = path.read_bytes()
                tag = f'"{sha256(content).hexdigest()}"'
                return self.answer(content, ETag=tag, X_Repo_Commit=COMMIT)
        repo = "/".join(words[2:4])
        if words[:2] != ["api", "models"] or not (self.root / repo).is_dir():
            kind = "EntryNotFound" if "resolve" in words else "RepoNotFound"
            return self.answer({}, 404, X_Error_Code=kind)
        files = {
            path.relative_to(self.root / repo).as_posix(): path.read_bytes()
            for path in (self.root / repo).rglob("*")
            if path.is_file()
        }
        if "tree" not in words:
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": repo, "sha": COMMIT, "siblings": siblings})
        rows = [
            {"type": "file", "path": name, "size": len(each), "oid": sha1(each).hexdigest()}
            for name, each in files.items()
        ]
        return self.answer(rows)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        words, sent = self.path.strip("/").split("/"), self.body()
        here = f"http://{self.headers['Host']}"
        if words[-1] == self.refuses:
            return self.answer({"error": "no"}, 403)
        if words[-1] == "create":
            told = json.loads(sent)
            repo = f"{told['organization']}/{told['name']}"
            (self.root / repo).mkdir(parents=True)
            return self.answer({"url": f"{here}/{repo}"})
        if words[-1] == "validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "preupload" in words:
            names = [each["path"] for each in json.loads(sent)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in modes.items()
            ]
            return self.answer({"files": files})
        if words[-1] == "batch":
            objects = [
                each | {"actions": {"upload": {"href": f"{here}/lfs/{each['oid']}"}}}
                for each in json.loads(sent)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        repo = "/".join(words[2:4])
        self._commit(repo, [json.loads(line) for line in sent.splitlines()])
        return self.answer({"commitOid": COMMIT, "commitUrl": f"{here}/{repo}/commit/{COMMIT}"})

    def _commit(self, repo: str, rows: list[dict[str, dict[str, str]]]) -> None:
        for row in rows[1:]:
            told = row["value"]
            path = self.root / repo / told["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            is_large = row["key"] == "lfsFile"
            large = self.root / "lfs" / told.get("oid", "")
            path.write_bytes(large.read_bytes() if is_large else b64decode(told["content"]))

    def do_PUT(self) -> None:
        if self.refuses == "PUT":
            return self.answer({}, 403)
        (self.root / "lfs").mkdir(exist_ok=True)
        (self.root / "lfs" / self.path.split("/")[-1]).write_bytes(self.body())
        self.answer({})


def started(root: Path) -> tuple[ThreadingHTTPServer, type[Hub]]:
    """A server that answers in a thread of its own, until its `shutdown`."""
    kind = type("OwnHub", (Hub,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    return server, kind
