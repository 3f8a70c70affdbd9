"""The service's command-line client refuses what it can before a job is made, and says why it waits."""

import pytest

from serving import client
from serving.__main__ import main as serving


@pytest.fixture
def sent(monkeypatch):
    """Paths of the requests; each finds no service."""
    asked = []

    def send(self, method, path, body=None, headers=None):
        asked.append(path)
        raise client.ServiceError("The service cannot be reached.")

    monkeypatch.setattr(client.Client, "_send", send)
    return asked


@pytest.mark.parametrize(
    ("picture", "more", "words"),
    [
        ("none.png", [], "none.png does not exist"),
        ("", [], "is a folder; name a picture"),
        ("ü 1.png", ["--mask", "none.png"], "none.png does not exist"),
        ("ü 1.png", ["--output", "none/x.glb"], "none does not exist; create it"),
        ("ü 1.png", ["--output", "."], ". is a folder; name a file"),
        ("ü 1.png", ["--url", "nonsense"], "URL is like http://127.0.0.1:8000, got 'nonsense'"),
        ("ü 1.png", ["--url", "localhost:8000"], "URL is like"),
    ],
)
def test_what_cannot_work_costs_no_job(sent, tmp_path, monkeypatch, capsys, picture, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ü 1.png").write_bytes(b"x")
    assert serving(["generate", str(tmp_path / picture), *more]) == 1
    said = capsys.readouterr().err
    assert words in said and "Errno" not in said and not sent


def test_it_says_once_why_it_waits(sent, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(b"x")
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(client.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    assert serving(["generate", str(tmp_path / "a.png"), "--output", str(tmp_path / "a.glb")]) == 1
    assert len(sent) > 2 and capsys.readouterr().err.count("cannot be reached. Trying again for a while.") == 1
