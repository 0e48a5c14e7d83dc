"""A few endpoints of the Hugging Face hub on this machine, for its own client to talk to."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN, READER = "hf_writer", "hf_reader"  # a token that may write, one that may not

NEW_SPACE = b"---\ntitle: X\nsdk: docker\n---\n\nSee https://huggingface.co/docs/hub/spaces-config-reference\n"


class StandIn:
    """Repositories as lists of commits; `fail`: statuses that the next uploads are answered with."""

    def __init__(self):
        self.repos, self.private, self.gated, self.fail, self.asked, self.sizes = {}, set(), set(), [], [], {}
        self.sdk = {}  # of a Space, which is a repository called spaces/owner/name

    def put(self, repo, **files):
        """A commit that adds `files` (name with _ for . to bytes) to `repo`; gives its hash."""
        return self.commit(repo, {name.replace("__", "."): content for name, content in files.items()})

    def commit(self, repo, files, gone=()):
        commits = self.repos.setdefault(repo, [])
        whole = {name: c for name, c in (commits[-1][1] if commits else {}).items() if name not in gone} | files
        sha = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        commits.append((sha, whole))
        return sha

    def files(self, repo, revision="main"):
        return next((f for sha, f in reversed(self.repos[repo]) if revision in ("main", sha)), None)

    def sha(self, repo, revision="main"):
        return self.repos[repo][-1][0] if revision == "main" else revision


class Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def log_message(self, *words):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def refused(self, repo):
        """Whether reading `repo` was refused (and answered)."""
        if self.token() not in ("", TOKEN, READER):
            self.answer(401, {}, X_Error_Message="Invalid credentials in Authorization header")
        elif repo not in self.hub.repos or (repo in self.hub.private and self.token() != TOKEN):
            self.answer(404 if self.token() else 401, {}, X_Error_Code="RepoNotFound", X_Error_Message="not found")
        elif repo in self.hub.gated and self.token() != TOKEN:
            self.answer(403, {}, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        else:
            return False
        return True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/(models/|spaces/)([^/]+/[^/]+)(/revision/([^/]+))?", path):
            repo, revision = match[1].removeprefix("models/") + match[2], match[4] or "main"
            # the hub lists gated repositories to everyone
            gated, self.hub.gated = self.hub.gated, set()
            refused, self.hub.gated = self.refused(repo), gated
            if refused:
                return
            if self.hub.files(repo, revision) is None:
                return self.answer(404, {}, X_Error_Code="RevisionNotFound")
            files = [
                {"rfilename": name, "size": self.hub.sizes.get(name, len(content))}
                for name, content in self.hub.files(repo, revision).items()
            ]
            private = repo in self.hub.private
            self.answer(200, {"id": repo, "sha": self.hub.sha(repo, revision), "private": private, "siblings": files})
        elif match := re.fullmatch(r"/((?:spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = match.groups()
            if self.refused(repo):
                return
            files = self.hub.files(repo, revision) or {}
            if name not in files:
                return self.answer(404, {}, X_Error_Code="EntryNotFound")
            etag = hashlib.sha1(files[name]).hexdigest()
            self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=self.hub.sha(repo, revision))
        else:
            self.answer(404, {})

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.token() not in (TOKEN, READER):
            return self.answer(401, {"error": "no"}, X_Error_Message="Invalid username or password.")
        if self.token() == READER:
            return self.answer(403, {"error": "no"}, X_Error_Message="You don't have the rights to create a model")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked.get("type") == "space":
                repo = f"spaces/{repo}"
                self.hub.sdk.setdefault(repo, asked["sdk"])
            if repo in self.hub.repos:
                return self.answer(409, {"error": "You already created this model repo", "url": repo})
            self.hub.commit(repo, {".gitattributes": b""} | ({"README.md": NEW_SPACE} if "spaces/" in repo else {}))
            if asked.get("visibility") == "private" or asked.get("private"):
                self.hub.private.add(repo)
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{repo}", "id": repo})
        match = re.fullmatch(r"/api/(models/|spaces/)([^/]+/[^/]+)/(preupload|commit)/main", path)
        repo = match[1].removeprefix("models/") + match[2]
        if self.hub.fail and match[3] == "commit":
            return self.answer(self.hub.fail.pop(), {"error": "out of order"})
        if match[3] == "preupload":
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        sha = self.hub.commit(repo, files, {x["value"]["path"] for x in lines if x["key"] == "deletedFile"})
        self.answer(
            200,
            {
                "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{sha}",
                "commitOid": sha,
                "pullRequestUrl": None,
            },
        )


@contextmanager
def serving():
    """(a StandIn, the address it listens at)."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
