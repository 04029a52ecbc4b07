"""A server on this machine that answers the requests of both hubs' libraries."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHubs:
    """Repositories of Hugging Face and models of Kaggle, in memory.

    `repositories` has a dictionary of files for each repository and revision of Hugging Face,
    `models` a list of versions for each model of Kaggle. What asks with another token than
    `token` may read public repositories, and write nothing.
    """

    token = "right"

    def __init__(self):
        self.repositories, self.private, self.models, self.blobs = {}, {}, {}, {}
        self.asked, self.fails_at = [], None

    @contextlib.contextmanager
    def served(self):
        hubs = self

        class Handler(Requests):
            state = hubs

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHubs

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer_to("HEAD")

    def do_GET(self):
        self.answer_to("GET")

    def do_POST(self):
        self.answer_to("POST")

    def do_PUT(self):
        self.answer_to("PUT")

    def answer_to(self, verb):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.state.asked.append(f"{verb} {path}")
        if self.state.fails_at and self.state.fails_at in path:
            return self.send(500, {"error": "out of order"})
        first, *rest = path.split("/")
        if first == "api":
            return self.hugging_face(rest, body)
        if first == "v1":
            return self.kaggle(rest[-1], json.loads(body or b"{}"))
        if first == "blobs":
            self.state.blobs[rest[0]] = body
            return self.send(200, {})
        return self.resolve(path)

    # ---- Hugging Face

    @property
    def may_write(self):
        given = self.headers.get("Authorization", "").split(" ")[-1]
        return given == self.state.token

    def files(self, repository, revision):
        """The files of a revision, or None once the refusal is sent."""
        known = repository in self.state.repositories
        if not known or (self.state.private[repository] and not self.may_write):
            self.send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in self.state.repositories[repository]:
            self.send(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return self.state.repositories[repository][revision]

    def hugging_face(self, parts, body):
        if parts[0] == "repos":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            if not self.may_write:
                return self.send(403, {"error": "Forbidden"})
            self.state.repositories[name] = {"main": {}}
            self.state.private[name] = told.get("visibility") == "private" or told.get("private")
            return self.send(200, {"url": f"{self.host}/{name}", "name": name})
        if parts[0] == "validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        repository, rest = "/".join(parts[1:3]), parts[3:]
        files = self.files(repository, rest[1] if len(rest) > 1 else "main")
        if files is None:
            return None
        if not rest or rest[0] == "revision":
            names = [{"rfilename": name} for name in files]
            return self.send(200, {"id": repository, "sha": "0" * 40, "siblings": names})
        if rest[0] == "tree":
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": oid(data)}
                for name, data in files.items()
            ]
            return self.send(200, listed)
        if not self.may_write:
            return self.send(403, {"error": "Forbidden"})
        if rest[0] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self.send(200, {"files": answer})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                files[value["path"]] = base64.b64decode(value["content"])
        answer = {"commitUrl": f"{self.host}/{repository}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return self.send(200, answer)

    def resolve(self, path):
        user, name, _, revision, *file = path.split("/")
        files = self.files(f"{user}/{name}", revision)
        if files is None:
            return None
        data = files.get("/".join(file))
        if data is None:
            return self.send(404, {"error": "none"}, {"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{oid(data)}"',
            "X-Repo-Commit": oid(repr(sorted(files)).encode() + data),
        }
        return self.send(200, data, headers)

    # ---- Kaggle

    def kaggle(self, method, told):
        models = self.state.models
        if method == "StartBlobUpload":
            token = f"{len(self.state.blobs)}-{told['name']}"
            self.state.blobs[token] = b""
            return self.send(200, {"token": token, "createUrl": f"{self.host}/blobs/{token}"})
        owner = f"{told['ownerSlug']}/{told.get('modelSlug') or told.get('slug')}"
        if method == "GetModel":
            known = any(name.startswith(owner) for name in models)
            return (
                self.send(200, {"slug": owner})
                if known
                else self.send(404, {"code": 404, "message": "none"})
            )
        if method == "CreateModel":
            return (
                self.send(200, {"id": 1})
                if self.may_write
                else self.send(403, {"code": 403, "message": "no"})
            )
        body = told.get("body", told)
        framework = (
            (body.get("framework") or told["framework"]).removeprefix("MODEL_FRAMEWORK_").lower()
        )
        variation = told.get("instanceSlug") or body.get("instanceSlug")
        name = f"{owner}/{framework}/{variation}"
        if method == "CreateModelInstance" and name in models:
            return self.send(200, {"error": "exists", "errorCode": 409})
        if method.startswith("CreateModelInstance"):
            version = {
                t.partition("-")[2]: self.state.blobs[t]
                for t in (f["token"] for f in body["files"])
            }
            models.setdefault(name, []).append(version)
            return self.send(200, {"id": 1, "error": ""})
        if name not in models:
            return self.send(404, {"code": 404, "message": "none"})
        if method == "GetModelInstance":
            return self.send(200, {"versionNumber": len(models[name]), "slug": variation})
        file = models[name][int(told["versionNumber"]) - 1].get(told.get("path", ""))
        if file is None:
            return self.send(404, {"code": 404, "message": "none"})
        return self.send(200, file)

    # ---- both

    @property
    def host(self):
        return f"http://{self.headers['Host']}"

    def send(self, status, answer, headers=None):
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def oid(data):
    """The name of a file's bytes."""
    return hashlib.sha1(data).hexdigest()
