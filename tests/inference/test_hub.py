"""`abn push`, `abn pull` and `abn.load("hf://...")`, against a stand-in of the Hub's HTTP API."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import abn
from abn.cli.main import main
from tests import toys

huggingface_hub = pytest.importorskip("huggingface_hub")
hub = pytest.importorskip("abn.inference.hub")

COMMIT = "c0" * 20
CLOSED = "http://127.0.0.1:9"  # where nothing listens


class Handler(BaseHTTPRequestHandler):
    """Repositories in memory, with as much of the API as one commit and a download need."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.refuses:
            return self.answer({"error": "no write access"}, 403)
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.server.made[name] = given
            return self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            kinds = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            named = [{"path": f["path"], **kinds} for f in json.loads(body)["files"]]
            return self.answer({"files": named})
        assert self.path == "/api/models/me/net/commit/main"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(
                    line["value"]["content"]
                )
        url = f"{self.server.url}/me/net/commit/{COMMIT}"
        return self.answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repo, _, name = self.path[1:].partition("/resolve/")
        revision, _, name = name.partition("/")
        self.server.revisions.append((name, revision))
        if repo != "me/net":
            return self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
        if name not in self.server.files:
            return self.answer({"error": "Entry not found"}, 404, "EntryNotFound")
        body = self.server.files[name]
        digest = hashlib.sha256(body).hexdigest()
        return self.send(body, 200, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

    def answer(self, told: dict, status: int = 200, code: str = "") -> None:
        headers = {"X-Error-Code": code} if code else {}
        if "error" in told:
            headers["X-Error-Message"] = told["error"]
        self.send(json.dumps(told).encode(), status, headers)

    def send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.made, server.tokens, server.revisions = {}, {}, [], []
    server.refuses = False
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=server.url))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's retries
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.utils.disable_progress_bars()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an untrained network, with nothing measured of it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    return toys.saved(folder, ("cat", "a|b"), resize=40, canvas=48)


def test_what_is_pushed_is_pulled_and_loaded_byte_for_byte(
    server: ThreadingHTTPServer,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", "me/net", "--checkpoint", str(saved), "--private"]) == 0
    assert capsys.readouterr().out == f"{server.url}/me/net/commit/{COMMIT}\n"
    assert server.made["me/net"]["visibility"] == "private"
    assert set(server.files) == {"model.safetensors", "config.json", "README.md"}
    assert main(["pull", "hf://me/net"]) == 0
    assert capsys.readouterr().out == "net\n"
    pulled = {path.name: path.read_bytes() for path in Path("net").iterdir()}
    assert pulled == server.files and pulled["model.safetensors"] == saved.read_bytes()
    assert ("README.md", COMMIT) in server.revisions  # of the same commit as the weights
    image = toys.split(1).images[0].numpy()
    theirs, ours = abn.load("hf://me/net", "cpu"), abn.load(saved, "cpu")
    assert repr(theirs.predict(image)) == repr(ours.predict(image))


def test_the_token_is_sent_and_never_shown(
    server: ThreadingHTTPServer, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses = True
    assert main(["push", "me/net", "--checkpoint", str(saved)]) == 1
    told = capsys.readouterr()
    assert set(server.tokens) == {"Bearer hf_secret"} and "hf_secret" not in told.out + told.err
    assert told.err == ("error[HUB] no write access; me/net; use a token that may write there\n")


def test_a_repository_that_is_missing_or_holds_no_network_is_refused_and_leaves_nothing(
    server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pull", "--to", str(tmp_path / "net")]
    assert main([*words, "me/other"]) == 1
    assert "me/other; check the name" in capsys.readouterr().err
    server.files["config.json"] = b"{}"
    assert main([*words, "me/net"]) == 1
    server.files["model.safetensors"] = b"not weights"
    assert main([*words, "me/net"]) == 3
    assert "not a checkpoint of this project" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()


def test_a_folder_with_files_is_not_replaced(
    server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.safetensors").write_text("mine")
    assert main(["pull", "me/net", "--to", str(tmp_path / "net")]) == 5
    assert main(["pull", "me/net", "--to", str(tmp_path / "net" / "model.safetensors")]) == 5
    assert "not written by this project" in capsys.readouterr().err
    assert (tmp_path / "net" / "model.safetensors").read_text() == "mine"
    assert server.revisions == []  # refused before the download


def test_a_server_that_is_not_there_is_one_line(
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=CLOSED))
    assert main(["pull", "me/net", "--to", str(tmp_path / "net")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error[HUB] ") and error.count("\n") == 1


@pytest.mark.parametrize("text", ["net", "a/b/c", "hf:/me/net", "https://hub/me/net", "../net"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(hub.HubError, match="write USER/REPO or hf://USER/REPO"):
        hub.address(text)


def test_an_address_may_name_a_revision() -> None:
    assert hub.address("hf://me/net@v1.0") == ("me/net", "v1.0")
    assert hub.address("me/my.net-2") == ("me/my.net-2", None)
