"""The whole suite in several processes, where pytest-xdist is installed: a file each at a time.

A run of files or tests that are named stays in one process, and so does one that asks for it (`-n 0`), debugs (`--pdb`)
or shows output as it comes (`-s`).
"""

import gc
import os
from contextlib import suppress
from pathlib import Path

import pytest

MOST = 8  # the longest file takes about an eighth of the whole
# Files that take longest, in that order: begun first, or one process would end with them while the others are done.
LONGEST = (
    "test_node_meshes",
    "test_projecting",
    "test_cli_runs",
    "test_first_minute",
    "test_service_making",
    "test_charts",
    "test_closed",
    "test_stages",
    "test_hollow",
    "test_training",
    "test_finish",
    "test_collapse",
    "test_bad_meshes",
    "test_plan",
    "test_minimal",
    "test_aligning",
    "test_tiles",
    "test_kernels_early",
    "test_cli_interruption",
    "test_batch",
    "test_state",
    "test_max_error",
    "test_install",
    "test_unwrap",
)
# Files that go to one process: each process that has one of them makes what they share, which takes some seconds.
TOGETHER = ("test_node_meshes", "test_node_memory", "test_node_runs", "test_node_server")
MEMORY = 3 << 30  # bytes for a process: torch, the largest mesh of a test, a command line beside it


def workers(cores: int, memory: int) -> int:
    """How many processes share the suite; 0: this one alone. memory: bytes that are free."""
    count = min(cores, memory // MEMORY, MOST)
    return count if count > 1 else 0


def free_memory() -> int:
    """Bytes; what two processes need where the system does not tell."""
    with suppress(OSError):  # not on Windows and macOS
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 2 * MEMORY


def cores() -> int:
    with suppress(AttributeError):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wants_all(config) -> bool:
    """Whether the run is one of the whole suite, in the default way."""
    named = config.args_source != pytest.Config.ArgsSource.TESTPATHS
    narrowed = config.option.keyword or config.option.markexpr or config.option.collectonly
    return not (named or narrowed or config.option.usepdb or config.option.capture == "no")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Before xdist reads its options."""
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return
    if config.option.numprocesses is None and config.option.dist == "no" and wants_all(config):
        config.option.numprocesses = workers(cores(), free_memory())
        config.option.dist = "loadfile" if config.option.numprocesses else "no"
        config.option.loadscopereorder = False  # which would begin with the files of most tests
        # threads of torch that wait for each other give their core to others: tests of several threads took six times
        # as long where each core has a process already
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where files go to processes as wholes: some of them together."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shared_scope(super()._split_scope(nodeid))

    return Files(config, log)


def shared_scope(file: str) -> str:
    """The name under which a file, a path below the root, goes to a process."""
    return "+".join(TOGETHER) if Path(file).stem in TOGETHER else file


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        rank = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))  # stable: the others keep their order


def pytest_collection_finish():
    """What tests are, and what their files import, stays to the end: garbage collections need not look at it,
    which takes a fifth of a second each time; the service asks for one after every job."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    """In a worker: its share of the cores, for its own threads and for the programs that tests start."""
    if hasattr(config, "workerinput"):
        import torch

        threads = max(1, cores() // config.workerinput["workercount"])
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        torch.set_num_threads(threads)
