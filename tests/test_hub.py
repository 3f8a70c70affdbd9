"""What the Hugging Face hub, and whatever stands between, answers: said with what to do about it."""

import errno
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
from huggingface_hub import errors

from pipeline.weights.hub import cached_file, cached_repositories
from pipeline.weights.hub_errors import explanation

# asks for pipeline.json of acme/<answer> for each answer; the library's waits between its tries are left out
ASK = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
time.sleep = lambda seconds: None
from pipeline.errors import CheckpointError
from pipeline.weights.hub import fetch
said = {}
for answer in sys.argv[2:]:
    try:
        said[answer] = str(fetch(f"acme/{answer}", "pipeline.json"))
    except CheckpointError as error:
        said[answer] = str(error)
print(json.dumps(said))
"""
ANSWERS = {
    "401": r"answered 401 .*the access token is not valid.* log in with `hf auth login` or set HF_TOKEN",
    "403": r"answered 403 .*Accept the repository's terms.*give the token read access",
    "404": r"answered 404 .*Check the name",
    "407": r"answered 407 .*HTTPS_PROXY",
    "429": r"answered 429 .*too many requests\. Wait a few minutes",
    "500": r"answered 500 .*the hub has trouble of its own\. See https://status\.huggingface\.co",
    "503": r"answered 503 .*the hub has trouble of its own",
    "page": r"is not the Hugging Face hub: a login page of the network, a proxy or a wrong HF_ENDPOINT",
    "gated": r"acme/gated is gated\. Accept its terms .*`hf auth login`",
    "norepo": r"has no repository acme/norepo, or it is private",
    "noentry": r"acme/noentry has no file pipeline\.json; it is not in the TRELLIS\.2 layout",
    "two--dashes": r"acme/two--dashes is no name of a Hugging Face repository",
}
CODES = {"gated": "GatedRepo", "norepo": "RepoNotFound", "noentry": "EntryNotFound"}


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers each request as the repository's name says."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        answer = self.path.split("/")[2]
        status = int(answer) if answer.isdigit() else 200 if answer == "page" else 403 if answer == "gated" else 404
        page = b"<html>log in</html>" if self.command == "GET" else b""
        self.send_response(status)
        if answer in CODES:
            self.send_header("X-Error-Code", CODES[answer])
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_GET = do_HEAD


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What is said about each answer."""
    from conftest import ROOT

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("hf")
    environment = {**os.environ, "HF_HOME": str(folder), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(ROOT), *ANSWERS], env=environment, capture_output=True, text=True, timeout=120
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_said_with_its_cure(said, answer):

    assert re.search(ANSWERS[answer], said[answer]), said[answer]
    assert "no connection" not in said[answer] and "Run the same command again; what" not in said[answer]


def chain(*causes):
    """The first error, raised from the second, and so on."""
    for error, cause in pairwise(causes):
        error.__cause__ = cause
    return causes[0]


def missing():
    return errors.LocalEntryNotFoundError("An error happened while trying to locate the file")


TROUBLES = {
    "certificate": ((missing, lambda: ssl.SSLCertVerificationError(1, "self-signed")), r"certificate .*SSL_CERT_FILE"),
    "name": ((missing, lambda: socket.gaierror(-2, "x")), r"name cannot be resolved"),
    "timeout": ((missing, lambda: TimeoutError("timed out")), r"does not answer in time.*HF_HUB_DOWNLOAD_TIMEOUT"),
    "refused": ((missing, lambda: ConnectionRefusedError(111, "refused")), r"no connection to the hub \(Conn"),
    "offline": ((missing, lambda: errors.OfflineModeIsEnabled("x")), r"HF_HUB_OFFLINE is set\. Unset it once"),
    "disk full": ((lambda: OSError(errno.ENOSPC, "No space left"),), r"disk is full\. Make room, or set HF_HOME"),
    "no permission": ((lambda: PermissionError(errno.EACCES, "x", "/cache"),), r"cache cannot be written.*HF_HOME"),
    "broken off": ((lambda: OSError("Consistency check failed: 1000 of 2000"),), r"interrupted .*what is complete is"),
    "native": ((lambda: RuntimeError("Data processing error: x"),), r"interrupted \(RuntimeError: Data processing"),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_trouble_on_the_way_is_said_with_its_cure(case):
    makers, message = TROUBLES[case]

    text = explanation(chain(*(make() for make in makers)), "acme/small", "x.json")
    assert re.search(message, text) and "x.json of acme/small" in text, text


def test_a_proxy_is_mentioned_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
    text = explanation(chain(missing(), ConnectionRefusedError(111, "refused")), "acme/small", "x.json")
    assert "check HTTPS_PROXY" in text and "secret" not in text


def test_a_damaged_cache_is_an_empty_one(tmp_path, monkeypatch):
    """Folders of other names, references that are no text, a cache that is a file: nothing of it stops a listing."""
    from huggingface_hub import constants

    names = ("models--acme--small", "models--acme--two--dashes--", "models--", "models--x", "datasets--a--b", ".locks")
    for name in names:
        (tmp_path / name / "refs").mkdir(parents=True)
        (tmp_path / name / "refs" / "main").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repositories = cached_repositories()
    assert "acme/small" in repositories and len(repositories) < 3
    assert not any(cached_file(repo, "pipeline.json") for repo in [*repositories, "acme/two--dashes--"])
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert cached_repositories() == []
