"""Library calls in a killable process: start, wait, cancel, read the result.

Arrays travel through pipes, so that no temporary file is needed, none is left behind, and a full disk is no matter.
The processes end with this one, however it ends.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import BackendError
from .worker import read_arrays, write_arrays

_WORKER = Path(__file__).with_name("worker.py")
_WAIT = 0.05  # seconds
_KILLED = 128 + 9  # how a process ends that the system kills to free memory


def run_job(job: str, tick: Callable[[], None] = lambda: None, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run a job of worker.py on arrays and return its arrays; see run_jobs."""
    return run_jobs(job, tick, [arrays])[0]


def run_jobs(job: str, tick: Callable[[], None], inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Run a job of worker.py on several sets of arrays at once, each in a process, and return the arrays of each.

    Args:
        tick: called twenty times a second while waiting; if it raises, the processes are killed.

    Raises:
        BackendError: a process failed; with the last line it printed.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3 * len(inputs)))
        tie = stack.enter_context(_Tie())
        running = [_Running.start(job, arrays, tie, pool) for arrays in inputs]
        while wait([each.result for each in running], _WAIT).not_done:
            tick()
        return [each.arrays(job) for each in running]


@dataclass(frozen=True)
class _Running:
    """A process that works, or has worked."""

    process: subprocess.Popen
    result: Future  # of dict[str, np.ndarray] | None
    log: Future  # of the last lines it printed

    @classmethod
    def start(cls, job: str, arrays: dict[str, np.ndarray], tie: _Tie, pool: ThreadPoolExecutor) -> _Running:
        process = tie.start([sys.executable, str(_WORKER), job])
        log = pool.submit(_last_lines, process)
        pool.submit(_send, process, arrays)
        return cls(process, pool.submit(_receive, process), log)

    def arrays(self, job: str) -> dict[str, np.ndarray]:
        found, lines = self.result.result(), self.log.result()
        if found is not None:
            return found
        code = self.process.returncode
        if code in (_KILLED, -9):
            raise BackendError(f"The job {job!r} was killed, which systems do that run out of memory. Free some.")
        last = lines[-1].decode(errors="replace").strip() if lines else "it printed nothing"
        raise BackendError(f"The job {job!r} ended with code {code}: {last}.")


def _last_lines(process: subprocess.Popen) -> list[bytes]:
    assert process.stderr is not None  # all three are pipes, see _Tie.start
    return [*deque(process.stderr, 20)]


def _send(process: subprocess.Popen, arrays: dict[str, np.ndarray]) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # what ended early says why in its log
        write_arrays(process.stdin, arrays)


def _receive(process: subprocess.Popen) -> dict[str, np.ndarray] | None:
    """What a process returns, or None if it failed; waits for its end."""
    assert process.stdout is not None
    try:
        with process.stdout:
            found = read_arrays(process.stdout)
    except (EOFError, OSError):
        found = None
    return found if process.wait() == 0 else None


class _Tie:
    """Ends processes with its block, or with this process, even when that is killed: on Windows by a job object,
    elsewhere by a pipe at which each process waits (see worker.end_with_parent). The system closes either for us.
    """

    def __enter__(self) -> _Tie:
        self._job = _job_object() if sys.platform == "win32" else None
        self._pipe = () if sys.platform == "win32" else os.pipe()
        self._processes: list[subprocess.Popen] = []
        return self

    def start(self, command: list[str]) -> subprocess.Popen:
        start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if sys.platform == "win32":
            process = start(command)
            self._processes.append(process)
            _kernel32().AssignProcessToJobObject(self._job, int(process._handle))
            return process
        end = self._pipe[0]  # a session of its own: end_with_parent kills its process group, and Ctrl-C is for us
        return start([*command, str(end)], pass_fds=(end,), start_new_session=True)

    def __exit__(self, *exception) -> None:
        if sys.platform == "win32":
            _kernel32().CloseHandle(self._job)
        for process in self._processes:
            process.kill()
        for end in self._pipe:
            os.close(end)


def _kernel32():
    """Windows' functions, with the types of what they take and return."""
    assert sys.platform == "win32"
    import ctypes
    from ctypes import wintypes

    library = ctypes.WinDLL("kernel32")
    library.CreateJobObjectW.restype = wintypes.HANDLE
    library.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
    library.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_char_p, wintypes.DWORD)
    library.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
    library.CloseHandle.argtypes = (wintypes.HANDLE,)
    return library


def _job_object() -> int | None:
    """A job object that kills its processes when its last handle is closed; None where Windows refuses, a handle with
    which the calls above do nothing."""
    library = _kernel32()
    job = library.CreateJobObjectW(None, None)
    # JOBOBJECT_EXTENDED_LIMIT_INFORMATION, 144 bytes on 64 bits; LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    limits = struct.pack("<16xI124x", 0x2000)
    library.SetInformationJobObject(job, 9, limits, len(limits))
    return job
