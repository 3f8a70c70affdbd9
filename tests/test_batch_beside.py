"""Finishing beside sampling: on which device, in which process, and whether memory allows it."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from pipeline.batch import Job, Maker, Recipe, Sharing, finishing_device, sharing
from pipeline.batch import beside as beside_module
from pipeline.batch.beside import Beside
from pipeline.bench.networks import RandomModels
from pipeline.errors import SettingsError
from pipeline.spec import RELEASED_MODELS
from pipeline.weights import open_checkpoint


def test_a_process_beside_finishes_as_this_one_does(checkpoint, picture, tmp_path, monkeypatch, root):
    """And where it is killed, nothing is lost but its try."""
    monkeypatch.syspath_prepend(str(root))  # where the new process finds the pipeline
    recipe = Recipe(checkpoint=str(checkpoint), pipeline_type="1024", texture=False)
    maker, job = Maker(recipe, "cpu"), Job("a", str(picture), "1" * 64, 42, "a")
    sampled = maker.sample(job)
    assert maker.finish(sampled, tmp_path / "here").files == ("a.glb",)
    with Beside(recipe, tmp_path / "beside") as beside:
        assert beside.takes(sampled) and not beside.takes(sampled)
        beside._process.kill()
        assert beside.result(wait=True) == (sampled, None) and beside.result() is None
        assert beside.takes(sampled)
        given, outcome = beside.result(wait=True)
        assert given is sampled and outcome.files == ("a.glb",) and not outcome.error
    assert (tmp_path / "beside" / "a.glb").read_bytes() == (tmp_path / "here" / "a.glb").read_bytes()


def test_whether_both_fit_beside_each_other(checkpoint):
    """The released networks on GPUs of several sizes: samplers must keep the memory plan that they have alone."""
    released, recipe = RandomModels(RELEASED_MODELS), Recipe(pipeline_type="1024_cascade")
    models = SimpleNamespace(checkpoint=open_checkpoint(str(checkpoint)), spec=released.spec)
    models.outline = cache(released.outline)
    gb = 10**9
    for free, finishers, fits in ((140, 2, True), (140, 20, False), (24, 1, True), (24, 3, False), (1, 1, False)):
        found = sharing(recipe, models, torch.device("cuda"), 1, finishers, free=free * gb)
        assert found.fits == fits and 4 * gb < found.finisher_bytes < 10 * gb, found
        assert found.sampler_bytes == free * gb - finishers * found.finisher_bytes
    assert sharing(recipe, models, torch.device("cuda"), memory_limit=3 * gb, free=140 * gb).sampler_bytes == 3 * gb


def test_where_objects_are_finished():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    room, none = Sharing(True, 1, 1, 2), Sharing(False, 1, 1, 2)
    cases = [(("auto", gpu, True, room), gpu), (("auto", gpu, True, none), cpu), (("auto", gpu, False, None), gpu)]
    cases += [(("cpu", gpu, True, room), cpu), (("cpu", gpu, False, None), cpu), (("gpu", gpu, True, none), gpu)]
    cases += [(("auto", cpu, True, None), cpu), (("auto", torch.device("mps"), True, None), cpu)]
    for given, expected in cases:
        assert finishing_device(*given) == expected, given
    with pytest.raises(SettingsError, match="--finish-on gpu: objects are sampled on the CPU"):
        finishing_device("gpu", cpu, True, None)


def test_an_object_is_not_handed_over_where_memory_is_short(monkeypatch, tmp_path):
    class Sampled:
        bytes = 1_000_000_000

    monkeypatch.setattr(beside_module, "free_memory", lambda: 10_000_000_000)
    with Beside(Recipe(), tmp_path) as beside:
        assert not beside.takes(Sampled()) and beside._process is None
