"""The one launcher of kernels, the union-find that they share, and what importing the pack must not do."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import subprocess
import sys
import time

import pytest
import torch

from pipeline.mesh.topology.half_edges import two_colour
from pipeline.warp import unavailable_reason

wp = pytest.importorskip("warp")

from pipeline.warp import cuda_driver  # noqa: E402
from pipeline.warp import launch as launcher  # noqa: E402
from pipeline.warp.union_find_kernels import peek_root, unite  # noqa: E402


@wp.kernel
def count_rows(start: wp.int32, points: wp.array[wp.vec3], seen: wp.array[wp.int32]):
    i = start + wp.tid()
    seen[i] = seen[i] + wp.int32(points[i][0])


@wp.kernel
def add_up(start: wp.int32, values: wp.array[wp.int32], total: wp.array[wp.int32]):
    wp.atomic_add(total, 0, values[start + wp.tid()])


@wp.kernel
def unite_ends(
    start: wp.int32,
    links: wp.array[wp.vec3i],
    parent: wp.array[wp.int32],
    odd: wp.array[wp.int32],
):
    link = links[start + wp.tid()]
    if unite(parent, link[0], link[1], link[2]) == 1:
        odd[start + wp.tid()] = 1


@wp.kernel
def read_roots(start: wp.int32, parent: wp.array[wp.int32], root: wp.array[wp.int32]):
    i = start + wp.tid()
    root[i] = peek_root(parent, i)


@pytest.mark.parametrize("count", [0, 1, 8191, 8193, 70_000, 300_001])
@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("chunk", [0, 1000])
def test_every_row_is_launched_once(count, cores, chunk, monkeypatch):
    monkeypatch.setattr(launcher, "cores", lambda: cores)
    seen = torch.zeros(count, dtype=torch.int32)
    launcher.launch_parallel(count_rows, count, torch.ones(count, 3), seen, chunk=chunk)
    assert (seen == 1).all()


def test_atomics_are_safe(monkeypatch):
    monkeypatch.setattr(launcher, "MOST", 777)
    values, total = torch.arange(50_000, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    launcher.launch_atomic(add_up, len(values), values, total)
    assert total.item() == 50_000 * 49_999 // 2


def test_each_worker_has_arguments_of_its_own(monkeypatch):
    monkeypatch.setattr(launcher, "cores", lambda: 4)
    values, totals = torch.ones(50_000, dtype=torch.int32), torch.zeros(3, 1, dtype=torch.int32)
    workers = launcher.workers_on(values.device, 3)
    launcher.launch_per_worker(add_up, len(values), lambda worker: (values, totals[worker]), workers, chunk=1000)
    assert workers == 3 and totals.sum().item() == 50_000


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_stops_a_launch_stops_all_of_it(error, monkeypatch):
    """Whatever happens in the middle, the call ends, and nothing is written afterwards."""
    launched, inner = [], wp.launch

    def launch(kernel, count, arguments, **more):
        launched.append(arguments[0])
        if arguments[0] == 5000:
            raise error("stop")
        time.sleep(1e-3)
        inner(kernel, count, arguments, **more)

    monkeypatch.setattr(launcher, "cores", lambda: 4)
    monkeypatch.setattr(wp, "launch", launch)
    for _ in range(20):
        launched.clear()
        seen = torch.zeros(200_000, dtype=torch.int32)
        with pytest.raises(error, match="stop"):
            launcher.launch_parallel(count_rows, len(seen), torch.ones(len(seen), 3), seen, chunk=1000)
        before = len(launched), seen.clone()
        time.sleep(0.01)
        assert (len(launched), seen.equal(before[1])) == (before[0], True) and before[0] < 200


def test_arguments_that_do_not_fit_are_refused():
    seen = torch.zeros(4, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"count_rows takes 2 arguments behind its rows, not 1"):
        launcher.launch_parallel(count_rows, 4, seen)
    with pytest.raises(TypeError, match=r"seen is a tensor \[2, 2\], but the kernel takes 1 dimensions"):
        launcher.launch_parallel(count_rows, 4, torch.ones(4, 3), seen.reshape(2, 2))
    with pytest.raises(RuntimeError, match="inner shape"):
        launcher.launch_parallel(count_rows, 4, torch.ones(4, 2), seen)


def test_union_find_knows_components_and_parities():
    """Against breadth-first search on a random graph, part of which contradicts itself."""
    random = torch.Generator().manual_seed(0)
    count, links = 2000, torch.randint(2000, (1500, 3), generator=random, dtype=torch.int32)
    links[:, 2] %= 2
    links[links[:, 0] == links[:, 1], 2] = 0
    parent, odd = 2 * torch.arange(count, dtype=torch.int32), torch.zeros(len(links), dtype=torch.int32)
    launcher.launch_atomic(unite_ends, len(links), links, parent, odd)
    root = torch.empty_like(parent)
    launcher.launch_parallel(read_roots, count, parent, root)
    label, colour, possible = two_colour(*links[:, :2].long().unbind(1), links[:, 2] == 1, count)
    lowest = torch.full((len(possible),), count).scatter_reduce_(0, label, torch.arange(count), "amin")
    assert torch.equal((root >> 1).long(), lowest[label])
    assert set(label[links[odd == 1, 0].long()].tolist()) == set((~possible).nonzero()[:, 0].tolist())
    known = possible[label]
    assert 0 < int(known.sum()) < count and torch.equal((root & 1).bool()[known], colour[known])


def test_warp_keeps_the_settings_of_its_other_users():
    before = wp.config.log_level
    try:
        wp.config.log_level = wp.LOG_WARNING
        launcher.load.cache_clear()
        launcher.launch_parallel(count_rows, 1, torch.ones(1, 3), torch.zeros(1, dtype=torch.int32))
        assert wp.config.log_level == wp.LOG_WARNING
    finally:
        wp.config.log_level = before


def test_importing_the_pack_does_not_import_warp_and_importing_kernels_does_not_start_it(root):
    script = """
import sys
import pipeline.__main__
assert "warp" not in sys.modules
import pipeline.mesh.topology.topology_kernels
import warp
from warp._src import context
assert context.runtime is None and warp.config.log_level == warp.LOG_INFO
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("no_warp")
def test_the_reason_is_asked_for_and_not_kept():
    from pipeline import stages

    assert "warp is not installed" in unavailable_reason()
    assert stages.table().available("unwrap")["warp"] == stages.table().available("trilinear")["warp"] != ""


def test_a_start_without_a_driver_says_nothing(root):
    """Where there is none; what else native code or Python writes meanwhile is not lost."""
    code = (
        "import os, sys\n"
        "from pipeline.warp import cuda_driver, launch\n"
        "if not cuda_driver.is_loadable():\n    launch._start()\n"
        "with cuda_driver.without_lines(b'no driver'):\n"
        "    os.write(2, b'Warp: no driver here\\nWarp: a broken one\\n')\n"
        "    print('from Python', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "Warp: a broken one\nfrom Python\n")


def test_what_is_said_of_a_driver_that_is_there_is_said(monkeypatch):
    monkeypatch.setattr(cuda_driver, "is_loadable", lambda: True)
    monkeypatch.setattr(cuda_driver, "without_lines", lambda words: pytest.fail("something is held back"))
    with cuda_driver.warning_silenced():
        pass
