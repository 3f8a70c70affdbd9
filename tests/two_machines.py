"""A batch on a cluster of two Ray nodes of this host, of which one dies in the middle: no picture may be lost.

    python tests/two_machines.py FOLDER [--pictures 16]

starts a head at 127.0.0.1 and a second node at 127.0.0.2, each with a CPU of its own and its own processes, and joins
them by --address. When both have worked, all processes of the second node are killed at once. It prints who made what,
and exits with 1 if a picture is not made, or was made on one node alone.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from chaos_batch import QUICK, ROOT, make_pictures, verdict
from servers import free_port

HEAD, SECOND = "127.0.0.1", "127.0.0.2"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}


def started(address: str, *options: str) -> subprocess.Popen:
    """`ray start` in a session of its own, when its node is there."""
    command = [Path(sys.executable).with_name("ray"), "start", "--block", f"--node-ip-address={address}", *options]
    command += ["--num-cpus=1", "--object-store-memory=200000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and any("Ray runtime started" in line for line in process.stdout)
    return process


def killed(process: subprocess.Popen) -> None:
    """Everything that a node has started, at once, as when its power fails."""
    every = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for what in (signal.SIGSTOP, signal.SIGKILL):  # none may start another one in between
        for each in every:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(what)
    process.wait()


def workers(process: subprocess.Popen) -> set[int]:
    return {each.pid for each in psutil.Process(process.pid).children(recursive=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=16, metavar="N", help="default: 16")
    options = parser.parse_args()
    os.environ.update(TOKEN, RAY_USAGE_STATS_ENABLED="0")
    good, corrupt = make_pictures(options.folder / "in", options.pictures)
    output, port, begun = options.folder / "out", free_port(), time.monotonic()
    head = started(HEAD, "--head", f"--port={port}", "--include-dashboard=false")
    second = started(SECOND, f"--address={HEAD}:{port}")
    command = ["-m", "serving", "batch", options.folder / "in", "--output", output, *QUICK, "--samplers", 2]
    command += ["--address", f"{HEAD}:{port}"]
    batch = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        objects, there, dead = 0, set(), False
        assert batch.stdout is not None
        for line in batch.stdout:
            print("   ", line, end="", flush=True)
            objects += line.startswith("[") and "/" in line.split("]")[0]
            there |= set() if dead else workers(second)
            if objects == 4 and not dead:
                killed(second)
                dead = True
                print(f"    the node {SECOND} is dead", flush=True)
        code = batch.wait()
        spans = json.loads((output / "timeline.json").read_text())["traceEvents"]
        on_second = {span["tid"] for span in spans} & there  # processes
        wrong = verdict(output, good, corrupt)
        every = {span["tid"] for span in spans}
        print(f"{len(spans)} steps by {len(every)} processes, {len(on_second)} of them on the second node")
        if not dead or not on_second or code != bool(corrupt):
            wrong.append(f"the second node died: {dead}; processes on it: {len(on_second)}; exit code {code}")
    finally:
        for each in (batch, head, *(() if dead else (second,))):
            if each.poll() is None:
                killed(each)
    print("\n".join(wrong) or f"No picture is lost. {options.pictures} pictures in {time.monotonic() - begun:.0f} s.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
