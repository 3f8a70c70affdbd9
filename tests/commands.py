"""Command lines one after the other in a process of its own, whose environment is what they are tested with.

A new process for each would spend its time on imports.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHILD = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from pipeline.__main__ import main
for line in sys.stdin:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            code = main(json.loads(line))
        except SystemExit as exit:
            code = exit.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Commands:
    """run(*arguments) is what `python -m pipeline` does there: (exit code, stdout, stderr)."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *exception) -> None:
        self._process.communicate(timeout=60)  # closes its input, which ends it

    def run(self, *arguments) -> tuple[int, str, str]:
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.stdin.write(json.dumps([str(each) for each in arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.stderr.read()
        return tuple(json.loads(answer))
