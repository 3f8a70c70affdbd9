"""The command line when it is interrupted, and when its console is gone or lacks letters."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from pipeline.cli import generate as command
from pipeline.console import Bars
from pipeline.runtime import Step


def begun(command, folder, **environment):
    """A process, when it has printed its first line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, **pipes)
    assert process.stdout.readline()
    return process


def ended(process, number):
    """Send a signal; returns what the process said before it ended."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "interrupted" in err and "Traceback" not in err, err
    return err


no_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to one process")


@no_signals
def test_interruption(root, picture, checkpoint, tmp_path):
    """Ctrl-C in mid-run: exit code 130, one line, nothing half-written."""
    command = ["-m", "pipeline", "generate", picture, "--checkpoint", checkpoint, "--type", "1024"]
    command += ["--output", tmp_path / "x.glb", "--structure-steps", 2, "--shape-steps", 2, "--texture-steps", 2]
    process = begun([*command, "--save-state", tmp_path / "x.safetensors", "--texture-size", "8192"], root)
    deadline = time.monotonic() + 120
    while not (tmp_path / "x.safetensors").exists() and time.monotonic() < deadline:  # sampled: now it exports
        time.sleep(0.02)
    ended(process, signal.SIGINT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


@no_signals
def test_termination(root, picture, tmp_path):
    """As service managers and containers end a process."""
    process = begun(["-m", "pipeline", "generate", picture, "--output", tmp_path / "x.glb"], root)
    ended(process, signal.SIGTERM)
    assert not list(tmp_path.iterdir())


@no_signals
def test_an_interruption_waits_for_no_thread(root, picture, tmp_path):
    """Such as one that compiles kernels, for a minute on a busy machine."""
    command = ["pipeline", "generate", str(picture), "--output", str(tmp_path / "x.glb")]
    code = "import runpy, sys, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    code += f"sys.argv = {command}\nrunpy.run_module('pipeline', run_name='__main__', alter_sys=True)"
    process, start = begun(["-c", code], root), time.monotonic()
    ended(process, signal.SIGTERM)
    assert time.monotonic() - start < 30 and not list(tmp_path.iterdir())


@no_signals
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interruption_during_the_imports(root, tmp_path, name):
    """Libraries swallow exceptions while they try what they may lack: here one that does so for a minute."""
    (tmp_path / "numpy.py").write_text(
        "import time\nprint('here')\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    start = time.monotonic()
    err = ended(begun(["-m", "pipeline", "generate", "x.png"], root, PYTHONPATH=str(tmp_path)), getattr(signal, name))
    assert err == "interrupted\n" and time.monotonic() - start < 30


@no_signals
@pytest.mark.parametrize("swallowed", ["", "then steps", "then ends", "then fails"])
def test_an_interruption_is_not_forgotten(run, monkeypatch, swallowed):
    """Nor are the handlers changed for good."""

    def work(options):
        if not swallowed:
            signal.raise_signal(signal.SIGTERM)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        if swallowed == "then steps":
            options.check()
            raise AssertionError
        if swallowed == "then fails":
            raise ImportError("cannot import name")
        return 0

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "run", work)
    assert run("generate", "x.png") == (143, "", "interrupted\n")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_steps_look_for_interruptions():
    """For a step may come after an exception that a library swallowed."""

    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Bars(check) as bars:
        bars(Step("encode", 0, 1))


class Console(io.TextIOWrapper):
    """Of an encoding, into memory; broken as long as its `error` is none."""

    error = None

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_console_that_cannot_show_a_letter(run, monkeypatch, encoding):
    bytes_written = io.BytesIO()
    console = Console(bytes_written, encoding=encoding)
    monkeypatch.setattr(command, "run", lambda options: print("火箭.glb é") or 0)
    with redirect_stdout(console):
        assert run("generate", "x.png")[0] == 0
    shown = {"utf-8": "火箭.glb é", "cp1252": "\\u706b\\u7bad.glb é", "ascii": "\\u706b\\u7bad.glb \\xe9"}[encoding]
    assert bytes_written.getvalue().decode(encoding) == shown + os.linesep


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a broken pipe otherwise")
@pytest.mark.parametrize("sink", ["closed pipe", "full disk"])
def test_a_console_that_is_gone(root, sink):
    """`| head`, or `> log` on a full disk: not worth a result, nor a complaint when Python ends."""
    if sink == "full disk" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    read, write = os.pipe() if sink == "closed pipe" else (None, os.open("/dev/full", os.O_WRONLY))
    if read:
        os.close(read)
    code = (
        "from pipeline.console import patient_console\nwith patient_console():\n    print('x' * 100_000, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.returncode == 0 and not done.stderr
