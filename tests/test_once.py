"""What one process of the suite fills for all: once, waited for, and its failure is told to those who wait."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from once import filled_once


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """As every process of a shared suite has one: its temporary folder is below that of the run."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")

    class Factory:
        def getbasetemp(self):
            return tmp_path / f"popen-{threading.get_ident()}"

    return Factory()


def test_it_is_filled_once_and_others_wait(factory):
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def fill(folder):
        calls.append(folder)
        begun.set()
        assert go_on.wait(30)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(filled_once, factory, "some", fill)
        assert begun.wait(30)
        second = pool.submit(filled_once, factory, "some", fill)
        go_on.set()
        assert first.result(30) == second.result(30) == calls[0] and len(calls) == 1
    assert (calls[0] / "file").read_text() == "whole"
    assert filled_once(factory, "other", lambda folder: None) != calls[0]


def test_a_failure_is_told_to_those_who_wait(factory):
    def fail(folder):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        filled_once(factory, "some", fail)
    with pytest.raises(AssertionError, match="could not be filled"):
        filled_once(factory, "some", fail)
