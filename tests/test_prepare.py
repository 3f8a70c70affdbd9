"""Rows that are tried while other work goes on: kernels are compiled before they are needed."""

import threading
import time

import pytest
import torch

from pipeline.backends import Backend, Backends, Operation
from pipeline.errors import BackendError
from pipeline.runtime import Runtime


def double(x):
    return 2 * x


def settled():
    """Wait for the threads of prepare."""
    for thread in threading.enumerate():
        if thread.name == "trellis2 prepare":
            thread.join(10)


def table(function, choices=None, name="double"):
    operation = Operation(name, (Backend("fast", function),), reference=double, example=lambda device: (torch.ones(3),))
    return Backends([operation], choices)


def test_a_row_is_tried_once_and_whoever_asks_meanwhile_waits():
    begun, calls = threading.Event(), []

    def slow(x):
        calls.append(threading.current_thread().name)
        begun.set()
        time.sleep(0.2)
        return 2 * x

    backends = table(slow)
    backends.prepare(["double"])
    assert begun.wait(5)
    assert backends.pick("double") is slow and calls == ["trellis2 prepare"]
    settled()


def test_other_rows_are_not_waited_for():
    begun, end = threading.Event(), threading.Event()

    def slow(x):
        begun.set()
        end.wait(10)
        return 2 * x

    def quick(x):
        return 2 * x

    operations = [
        Operation(name, (Backend("fast", row),), reference=double, example=lambda device: (torch.ones(3),))
        for name, row in (("slow", slow), ("quick", quick))
    ]
    backends = Backends(operations)
    backends.prepare(["slow"])
    assert begun.wait(5)
    assert backends.pick("quick") is quick
    end.set()
    settled()


def test_what_is_found_meanwhile_stops_the_run_at_its_next_stage(caplog):
    backends = table(lambda x: 3 * x, {"double": "fast"})
    backends.require("double")  # it is here, and not tried
    runtime = Runtime("cpu", backends)
    backends.prepare(["double"])
    settled()
    with pytest.raises(BackendError, match="its answer is off by"), runtime.stage("texture", 1, ""):
        pass
    assert caplog.text.count("is disabled on cpu") == 1


@pytest.mark.parametrize("when", ["interpreter shutdown", "shutdown"])
def test_a_process_that_ends_meanwhile_is_no_fault_of_the_row(caplog, when):
    """Python says one before a pool's threads have ended, and the other after."""

    def ended(x):
        raise RuntimeError(f"cannot schedule new futures after {when}")

    backends = table(ended)
    backends.prepare(["double"])
    settled()
    assert not caplog.messages


def test_what_can_replace_it_does():
    backends = table(lambda x: 3 * x)
    backends.prepare(["double"])
    settled()
    backends.raise_found()
    assert backends.pick("double") is double


def test_what_is_not_here_is_said_at_once():
    row = Backend("fast", None, "the package is not installed.", ("cuda",))
    backends = Backends([Operation("double", (row,)), Operation("half", (Backend("fast", double, "", ("cuda",)),))])
    message = "No backend for 'double' is available on cpu. fast: the package is not installed"
    with pytest.raises(BackendError, match=message):
        backends.require("double")
    with pytest.raises(BackendError, match="it runs on cuda only"):
        backends.require("half")
    backends.require("half", "cuda")
    assert backends.offers("half", "cuda") and not backends.offers("double")
