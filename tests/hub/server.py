"""A small Hugging Face Hub on loopback, for the real client to talk to.

It speaks what the client of huggingface_hub asks for when it makes a repository, pushes, lists and
fetches: large files over LFS, revisions, private and gated repositories, error codes in the headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

WRITER, READER = "hf_may_write", "hf_may_read"


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    downloads: int = 0

    def commit(self, branch, files, message=""):
        content = json.dumps([branch, len(self.commits), sorted(files)]).encode()
        oid = hashlib.sha1(content + b"".join(files.values())).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def at(self, revision):
        """Commit and files of a branch or commit."""
        oid = self.branches.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else (None, None)

    @property
    def files(self):
        return self.at("main")[1]

    @property
    def card(self):
        text = (self.files or {}).get("README.md", b"").decode()
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        return yaml.safe_load(found[1]) if found else {}


class Hub:
    """The state of the server, and the server."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        # What goes wrong: status by (method, part of the path), and file name to size that is told.
        self.failures: dict[tuple[str, str], int] = {}
        self.sizes: dict[str, int | None] = {}
        # By a part of the request: what changes the headers and gives other content.
        self.spoils: dict[str, Callable[[bytes, dict], bytes]] = {}
        # Called once, after a request has been answered: by a part of it.
        self.afterwards: dict[str, Callable[[], None]] = {}
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Another host, as with the hub: the client must not follow with its token.
        self.storage_url = f"http://localhost:{self.server.server_port}/storage"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo_id, files=None, **kwargs):
        repo = self.repos[repo_id] = Repo(**kwargs)
        repo.commit("main", {".gitattributes": b"", **(files or {})}, "first")
        return repo

    def replace(self, repo_id, **files):
        """Commit changed files; ``config_json=b"..."`` is config.json, `None` deletes."""
        repo = self.repos[repo_id]
        named = {
            name.replace("_json", ".json").replace("_safetensors", ".safetensors"): content
            for name, content in files.items()
        }
        left = {n: c for n, c in {**repo.files, **named}.items() if c is not None}
        return repo.commit("main", left, "changed")

    def asked(self, method, part=""):
        return [r for r in self.requests if r.startswith(method + " ") and part in r]


def is_large(name):
    return name.endswith((".safetensors", ".ckpt"))


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    # --- plumbing -------------------------------------------------------------------------------------

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for part in [p for p in self.hub.spoils if p in f"{self.command} {unquote(self.path)}"]:
            content = self.hub.spoils[part](content, headers)
        length = headers.pop("length", len(content))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code, message):
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def handle_any(self):
        url = urlsplit(self.path)
        path, content = unquote(url.path), self.body()
        self.hub.requests.append(f"{self.command} {path}")
        for (method, part), status in self.hub.failures.items():
            if method == self.command and part in path:
                self.answer(status, {"error": "broken"})
                return
        for pattern, methods, function in ROUTES:
            # Matched as sent: the name of a branch may have a slash, which is quoted there.
            found = re.fullmatch(pattern, url.path)
            if found and self.command in methods:
                groups = [group and unquote(group) for group in found.groups()]
                function(self, *groups, query=parse_qs(url.query), content=content)
                for part in [p for p in self.hub.afterwards if p in self.hub.requests[-1]]:
                    self.hub.afterwards.pop(part)()
                return
        self.refuse(404, "NotFound", f"no route {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    @property
    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self):
        if self.token == WRITER:
            return True
        status = 403 if self.token else 401
        self.answer(status, {"error": "no"}, X_Error_Message="You may not write")
        return False

    def repo(self, repo_id):
        """The repository, or `None` when the refusal has been sent."""
        known = self.token in (WRITER, READER)
        repo = self.hub.repos.get(repo_id)
        if self.token and not known:
            message = "Invalid credentials in Authorization header"
            self.refuse(401, "Unauthorized", message)
        elif repo is None or (repo.private and not known):
            # As the hub does: who is not known learns nothing about what there is.
            self.refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        elif (
            repo.gated
            and self.command in ("GET", "HEAD")
            and "/resolve/" in self.path
            and not known
        ):
            self.refuse(401, "GatedRepo", "Access is restricted")
        else:
            return repo
        return None

    # --- what the client asks for ---------------------------------------------------------------------

    def create(self, *, query, content):
        if not self.may_write():
            return
        asked = json.loads(content)
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repos:
            self.answer(409, {**url, "error": "You already created this model repo"})
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.add(repo_id, private=bool(private))
        self.answer(200, url)

    def check_card(self, *, query, content):
        text = json.loads(content)["content"]
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            data = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError as error:
            self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
            return
        if not isinstance(data.get("license", ""), str):
            self.answer(400, {"errors": [{"message": '"license" must be a string'}]})
            return
        self.answer(200, {"errors": [], "warnings": []})

    def describe(self, repo_id, repo, revision="main"):
        oid, files = repo.at(revision)
        return {
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": oid,
            "lastModified": "2026-01-02T03:04:05.000Z",
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "downloads": repo.downloads,
            "likes": 1,
            "tags": [*repo.card.get("tags", ()), f"license:{repo.card.get('license')}"],
            "cardData": repo.card,
            "siblings": [{"rfilename": name} for name in files],
        }

    def info(self, repo_id, revision=None, *, query, content):
        repo = self.repo(repo_id)
        if repo is None:
            return
        if repo.at(revision or "main")[0] is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        self.answer(200, self.describe(repo_id, repo, revision or "main"))

    def models(self, *, query, content):
        first = {name: values[0] for name, values in query.items()}
        found = []
        for repo_id, repo in self.hub.repos.items():
            about = self.describe(repo_id, repo)
            if repo.private and self.token not in (WRITER, READER):
                continue
            if not set(query.get("filter", ())) <= set(about["tags"]):
                continue
            if first.get("author", about["author"]) != about["author"]:
                continue
            if first.get("search", "") not in repo_id:
                continue
            wanted = {"id", "modelId", *query.get("expand", about)}
            found.append({name: about[name] for name in about if name in wanted})
        if first.get("sort") == "downloads":
            found.sort(key=lambda about: -about["downloads"])
        # In pages of two, linked as the hub does it.
        start, limit = int(first.get("cursor", 0)), int(first.get("limit", 1000))
        headers = {}
        if start + 2 < min(len(found), limit):
            rest = re.sub(r"&cursor=\d+", "", urlsplit(self.path).query)
            headers["Link"] = f'<{self.hub.url}/api/models?{rest}&cursor={start + 2}>; rel="next"'
        self.answer(200, found[start : start + 2], **headers)

    def settings(self, repo_id, *, query, content):
        repo = self.may_write() and self.repo(repo_id)
        if not repo:
            return
        asked = json.loads(content)
        repo.private = asked.get("private", asked.get("visibility") == "private")
        self.answer(200, {})

    def branch(self, repo_id, branch, *, query, content):
        repo = self.may_write() and self.repo(repo_id)
        if not repo:
            return
        if branch in repo.branches:
            self.answer(409, {"error": "Reference already exists"})
            return
        repo.branches[branch] = repo.branches["main"]
        self.answer(200, {})

    def preupload(self, repo_id, revision, *, query, content):
        repo = self.may_write() and self.repo(repo_id)
        if not repo:
            return
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(content)["files"]
        ]
        self.answer(200, {"files": modes})

    def batch(self, repo_id, *, query, content):
        if not self.may_write():
            return
        objects = []
        for asked in json.loads(content)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/storage/{asked['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify"},
                }
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid, *, query, content):
        if hashlib.sha256(content).hexdigest() != oid:
            self.answer(400, {"error": "wrong digest"})
            return
        self.hub.large[oid] = content
        self.answer(200)

    def verify(self, *, query, content):
        asked = json.loads(content)
        sound = len(self.hub.large.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if sound else 404, {})

    def commit(self, repo_id, revision, *, query, content):
        repo = self.may_write() and self.repo(repo_id)
        if not repo:
            return
        message, files = "", dict(repo.at(revision)[1])
        for line in content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                self.answer(400, {"error": f"unknown {item['key']}"})
                return
        oid = repo.commit(revision, files, message)
        url = f"{self.hub.url}/{repo_id}/commit/{oid}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def resolve(self, repo_id, revision, name, *, query, content):
        repo = self.repo(repo_id)
        if repo is None:
            return
        oid, files = repo.at(revision)
        if oid is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if name not in files:
            self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return
        data = files[name]
        size = self.hub.sizes.get(name, len(data))
        if is_large(name):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.large[digest] = data
            self.answer(
                302,
                X_Repo_Commit=oid,
                X_Linked_Etag=f'"{digest}"',
                X_Linked_Size=size,
                Location=f"{self.hub.storage_url}/{digest}",
            )
            return
        etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        headers = {"X_Repo_Commit": oid, "ETag": f'"{etag}"'}
        if self.command == "HEAD":
            self.answer(200, length=size, **headers)
        else:
            repo.downloads += 1
            self.answer(200, data, **headers)

    def stored(self, oid, *, query, content):
        assert not self.token, "a token was sent to the storage"
        self.answer(200, self.hub.large[oid])


_ID = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"/api/repos/create", ("POST",), Handler.create),
    (r"/api/validate-yaml", ("POST",), Handler.check_card),
    (r"/api/models", ("GET",), Handler.models),
    (rf"/api/models/{_ID}", ("GET",), Handler.info),
    (rf"/api/models/{_ID}/settings", ("PUT",), Handler.settings),
    (rf"/api/models/{_ID}/revision/(.+)", ("GET",), Handler.info),
    (rf"/api/models/{_ID}/branch/(.+)", ("POST",), Handler.branch),
    (rf"/api/models/{_ID}/preupload/(.+)", ("POST",), Handler.preupload),
    (rf"/api/models/{_ID}/commit/(.+)", ("POST",), Handler.commit),
    (rf"/{_ID}\.git/info/lfs/objects/batch", ("POST",), Handler.batch),
    (r"/storage/(\w+)", ("PUT",), Handler.upload),
    (r"/storage/(\w+)", ("GET", "HEAD"), Handler.stored),
    (r"/verify", ("POST",), Handler.verify),
    (rf"/{_ID}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), Handler.resolve),
]


@contextmanager
def on_loopback(cache):
    """Have the real client talk to such a hub, and to nothing else, with an empty cache."""
    from huggingface_hub import constants, hf_api

    server = Hub()
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "AGENT_HARNESSES_PATH": str(cache / "agents.json"),
            "HF_HUB_OFFLINE": False,
            # Pushing to Xet needs a second, undocumented service; the client then takes LFS.
            "HF_HUB_DISABLE_XET": True,
        }.items():
            assert hasattr(constants, name) or name == "AGENT_HARNESSES_PATH"
            monkeypatch.setattr(constants, name, value, raising=False)
        # The functions of the client are methods of one object, made when it is imported.
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        connect = socket.socket.connect

        def connect_to_loopback(self, address):
            host = address[0] if isinstance(address, tuple) else address
            assert host in ("127.0.0.1", "::1", "localhost"), f"a test asks the network: {address}"
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", connect_to_loopback)
        # How the client hands an LFS upload to its own HTTP library.
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        yield server
    server.close()
