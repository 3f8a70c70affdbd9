"""Warp's cache of compiled kernels: whatever lies in it, and wherever it lies, kernels run, and run right."""

import logging
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

pytest.importorskip("warp", reason="Warp is not installed")

import warp as wp

from pipeline.errors import BackendError
from pipeline.warp import kernel_cache
from pipeline.warp.launch import launch_parallel

SOURCE = """
import warp as wp
from pipeline.warp.launch import configure

configure("tests.tiny_kernels")


@wp.kernel(module=wp.get_module("tests.tiny_kernels"))
def double(start: wp.int32, values: wp.array[wp.int32]):
    i = start + wp.tid()
    values[i] = 2 * values[i]
"""


@pytest.fixture
def double(tmp_path):
    """Runs a kernel as a new process would, with nothing loaded yet."""

    def run():
        path = tmp_path / "tiny_kernels.py"
        path.write_text(SOURCE)
        wp.get_module("tests.tiny_kernels").unload()
        vars(wp.get_module("tests.tiny_kernels")).pop("load", None)
        spec = spec_from_file_location("tests.tiny_kernels", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        values = torch.arange(4, dtype=torch.int32)
        launch_parallel(module.double, 4, values)
        assert values.tolist() == [0, 2, 4, 6]

    return run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    (tmp_path / "cache").mkdir()
    wp.init()  # which chooses a cache of its own
    monkeypatch.setattr(wp.config, "kernel_cache_dir", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blank(path):
    """As after a power cut: as long as it was, but the end was never written. Warp would load that, and crash."""
    data = path.read_bytes()
    path.write_bytes(data[:300] + bytes(len(data) - 300))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*/*.o", cut),
        ("*/*.o", blank),
        ("*/*.meta", cut),
        ("*/*.trellis2", cut),
        ("*/*.trellis2", Path.unlink),
    ],
)
def test_a_damaged_cache_heals_itself(double, cache, caplog, pattern, damage):
    double()
    (file,) = cache.glob(pattern)
    whole = file.read_bytes()
    double()
    assert file.read_bytes() == whole
    damage(file)
    double()
    assert file.read_bytes() == whole
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len([*cache.iterdir()]) == 1  # nothing is left of the compiling


def test_what_is_whole_is_not_compiled_again(double, cache, monkeypatch):
    double()
    monkeypatch.setattr(kernel_cache, "_clear", None)
    for file in cache.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    double()


@pytest.mark.parametrize("trouble", ["no folder", "no room"])
def test_a_cache_that_cannot_be_written_is_replaced(double, cache, tmp_path, monkeypatch, caplog, trouble):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if trouble == "no folder":
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(wp.config, "kernel_cache_dir", str(tmp_path / "file" / "cache"))
    else:
        make = tempfile.TemporaryFile

        def refuse(dir):
            if dir == cache:
                raise OSError(28, "No space left on device")
            return make(dir=dir)

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with caplog.at_level(logging.WARNING):
        double()
        double()
    (record,) = caplog.records
    assert "cannot be used" in record.getMessage() and record.getMessage().count("\n") == 0
    assert len([*tmp_path.glob("trellis2-warp-*/wp_*/*.o")]) == 1


def test_no_place_at_all_is_told(double, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(wp.config, "kernel_cache_dir", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "other"))
    with pytest.raises(BackendError, match=r"neither in its cache \(.*cache\) nor .* set WARP_CACHE_PATH"):
        double()


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    """Warp makes the cache's folder when it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(wp.config, "kernel_cache_dir", None)
    calls = []

    def init():
        calls.append(wp.config.kernel_cache_dir)
        if len(calls) == 1:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(wp, "init", init)
    kernel_cache.initialise()
    assert calls[0] is None and calls[1].startswith(str(tmp_path)) and len(caplog.records) == 1


def test_every_file_of_kernels_is_guarded(root):
    for folder in ("pipeline", "training"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "\n@wp.kernel" not in text or "configure(__name__" in text, path
