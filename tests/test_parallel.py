"""How many processes share the suite, and when none do."""

from pathlib import Path
from types import SimpleNamespace

import parallel
import pytest

GB = 1 << 30
SOURCES = pytest.Config.ArgsSource


@pytest.mark.parametrize(
    ("cores", "memory", "count"),
    [(2, 16 * GB, 2), (64, 512 * GB, 8), (64, 7 * GB, 2), (1, 64 * GB, 0), (16, 5 * GB, 0), (3, 16 * GB, 3)],
)
def test_processes_are_bounded_by_cores_and_by_memory(cores, memory, count):
    assert parallel.workers(cores, memory) == count


def test_this_machine_tells_its_cores_and_memory():
    assert parallel.cores() >= 1 and parallel.free_memory() > 0


def chosen(monkeypatch, source=SOURCES.TESTPATHS, installed=True, **options):
    """(processes, distribution) that a run with these options gets on two cores."""
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setattr(parallel, "free_memory", lambda: 16 * GB)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    usual = {"keyword": "", "markexpr": "", "collectonly": False, "usepdb": False, "capture": "fd"}
    option = SimpleNamespace(**{"numprocesses": None, "dist": "no", **usual, **options})
    manager = SimpleNamespace(hasplugin=lambda name: installed and name == "xdist")
    parallel.pytest_cmdline_main(SimpleNamespace(args_source=source, option=option, pluginmanager=manager))
    return option.numprocesses, option.dist


def test_the_whole_suite_is_shared(monkeypatch):
    assert chosen(monkeypatch) == (2, "loadfile")


@pytest.mark.parametrize(
    "options",
    [
        {"source": SOURCES.ARGS},
        {"installed": False},
        {"keyword": "mesh"},
        {"usepdb": True},
        {"capture": "no"},
        {"collectonly": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_one_process_where_somebody_looks_at_single_tests(monkeypatch, options):
    assert chosen(monkeypatch, **options) == (None, "no")


def test_the_longest_files_begin_first():
    names = ("test_a", "test_state", "test_b", "test_cli_runs", "test_state")
    assert parallel.LONGEST.index("test_cli_runs") < parallel.LONGEST.index("test_state")
    items = [SimpleNamespace(path=Path(f"{name}.py"), number=number) for number, name in enumerate(names)]
    parallel.pytest_collection_modifyitems(SimpleNamespace(), items)
    assert [item.number for item in items] == [0, 1, 2, 3, 4]  # a run in one process keeps the usual order
    parallel.pytest_collection_modifyitems(SimpleNamespace(workerinput={}), items)
    assert [item.number for item in items] == [3, 1, 4, 0, 2]


def test_the_longest_files_are_there(root):
    assert all((root / "tests" / f"{name}.py").exists() for name in (*parallel.LONGEST, *parallel.TOGETHER))


def test_files_that_share_a_run_go_to_one_process():
    scheduler = pytest.importorskip("xdist.scheduler")
    config = SimpleNamespace(option=SimpleNamespace(dist="loadfile"), getvalue=lambda name: ["popen"])
    files = parallel.pytest_xdist_make_scheduler(config, None)
    assert isinstance(files, scheduler.LoadFileScheduling)
    one, other, alone = (
        files._split_scope(f"tests/{name}.py::test_it") for name in ("test_node_runs", "test_node_memory", "test_mesh")
    )
    assert one == other != alone == "tests/test_mesh.py"
    config.option.dist = "load"
    assert parallel.pytest_xdist_make_scheduler(config, None) is None


def test_what_is_asked_for_stays(monkeypatch):
    assert chosen(monkeypatch, numprocesses=0) == (0, "no")
    assert chosen(monkeypatch, numprocesses=5, dist="load") == (5, "load")
