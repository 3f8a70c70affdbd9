"""Weights of the next network are read while the present one works."""

import threading

import pytest
import torch

from pipeline import stages
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.spec import PIPELINE_TYPES, SHAPE_DECODER, SHAPE_FLOW_512, STRUCTURE_DECODER, STRUCTURE_FLOW
from pipeline.weights import SMALL_CHECKPOINT, Models, ahead, open_checkpoint


@pytest.fixture
def reads(monkeypatch):
    """What was read ahead: (file, first byte, last)."""
    found, real = [], ahead._read

    def read(path, begin, end):
        found.append((path.name, begin, end))
        real(path, begin, end)

    monkeypatch.setattr(ahead, "_read", read)
    return found


def settled():
    for thread in threading.enumerate():
        if thread.name == "trellis2 read ahead":
            thread.join(10)


@pytest.fixture
def models():
    models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
    models.fetch(PIPELINE_TYPES["512"].roles())
    models.expect(PIPELINE_TYPES["512"].roles())
    return models


def test_the_next_expected_network_is_read_whole_and_once(models, reads):
    runtime = Runtime("cpu", stages.table(), torch.float32)
    models.expect((STRUCTURE_FLOW, STRUCTURE_DECODER, SHAPE_FLOW_512, SHAPE_DECODER))
    expected = [models.checkpoint.files(role).path for role in (STRUCTURE_DECODER, SHAPE_FLOW_512, SHAPE_DECODER)]
    for role in (STRUCTURE_FLOW, STRUCTURE_FLOW, STRUCTURE_DECODER, SHAPE_FLOW_512):
        with runtime.use(models, role, 1):
            settled()
    assert [name for name, _, _ in reads] == [path.name for path in expected]
    for path, (_, begin, end) in zip(expected, reads):
        assert end == path.stat().st_size and begin < 0.1 * end


def test_what_is_loaded_is_not_read_again(models, reads):
    runtime = Runtime("cpu", stages.table(), torch.float32, keep_models=True)
    models.expect((SHAPE_FLOW_512, SHAPE_DECODER))
    models.get(SHAPE_DECODER, torch.device("cpu"), torch.float32)
    with runtime.use(models, SHAPE_FLOW_512, 1):
        settled()
    assert reads == []


def test_nothing_is_read_where_memory_is_short(models, reads, monkeypatch):
    monkeypatch.setattr(ahead, "device_bytes", lambda device: 1000)
    models.expect((SHAPE_FLOW_512, SHAPE_DECODER))
    models.read_ahead(SHAPE_FLOW_512)
    settled()
    assert reads == []


def test_a_file_that_is_gone_is_left_to_the_load(tmp_path):
    thread = ahead.read_ahead(tmp_path / "gone.safetensors", 0, 100)
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
