"""What of an object is left for the CPU, in a process beside the sampler, and where meshes are processed."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from bodies import sphere

from pipeline import stages
from pipeline.batch import Job, Maker, Recipe, processing_device, run
from pipeline.batch import beside as beside_module
from pipeline.batch.beside import Beside, pays
from pipeline.errors import OutOfMemoryError, SettingsError
from pipeline.stages import Mesh


def test_a_process_beside_does_what_this_one_does(checkpoint, picture, tmp_path, monkeypatch, root):
    """Of an object that is sampled and of one that is processed; where the process is killed, only a try is lost."""
    monkeypatch.syspath_prepend(str(root))  # where the new process finds the pipeline
    recipe = Recipe(checkpoint=str(checkpoint), pipeline_type="1024", texture=False)
    maker, job = Maker(recipe, "cpu"), Job("a", str(picture), "1" * 64, 42, "a")
    sampled = maker.sample(job)
    finished = maker.process(sampled)
    assert maker.complete(finished, tmp_path / "here").files == ("a.glb",)
    with Beside(recipe, tmp_path / "beside") as beside:
        assert beside.takes(sampled) and not beside.takes(sampled)
        beside._process.kill()
        assert beside.result(wait=True) == (sampled, None) and beside.result() is None
        for made in (sampled, finished):
            assert beside.takes(made)
            given, outcome = beside.result(wait=True)
            assert given is made and outcome.files == ("a.glb",) and not outcome.error
            stages = [each["stage"] for each in outcome.report["stages"]]
            assert stages[-2:] == ["process mesh", "export"] and len(stages) == len(set(stages))
            assert (tmp_path / "beside" / "a.glb").read_bytes() == (tmp_path / "here" / "a.glb").read_bytes()
            (tmp_path / "beside" / "a.glb").unlink()
    monkeypatch.setattr(maker, "sample", lambda job: sampled)
    outcome = maker.make(job, tmp_path / "alone")
    assert outcome.files == ("a.glb",) and outcome.report["finished_on"] == "cpu"
    assert (tmp_path / "alone" / "a.glb").read_bytes() == (tmp_path / "here" / "a.glb").read_bytes()
    monkeypatch.setattr(maker, "sample", lambda job: [][0])
    assert maker.make(job, tmp_path / "alone").kind == "IndexError"


def test_what_is_handed_over_leaves_out_what_can_be_found_again():
    """A mesh's topology is larger than the mesh; the report, which is small and takes time, stays."""
    mesh = Mesh(*sphere())
    alone, report = len(pickle.dumps(mesh)), mesh.report
    assert mesh.edges is not None and mesh.sheets is not None
    again = pickle.loads(pickle.dumps(mesh))
    assert len(pickle.dumps(mesh)) < alone + 2000 and again.__dict__["report"] == report
    assert torch.equal(again.faces, mesh.faces) and torch.equal(again.edges.twin, mesh.edges.twin)


def test_models_are_kept_until_memory_runs_out_beside_them(checkpoint, picture, monkeypatch):
    """In processing too: the next object would run out of it there as well."""
    maker = Maker(Recipe(checkpoint=str(checkpoint), pipeline_type="1024", texture=False), "cpu")
    sampled = maker.sample(Job("a", str(picture), "1" * 64, 42, "a"))
    assert maker.keep_models
    process, calls = stages.finish_mesh, []

    def short_of_memory(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OutOfMemoryError("Memory ran out.")
        return process(*arguments)

    monkeypatch.setattr("pipeline.make.from_state.finish_mesh", short_of_memory)
    assert maker.process(sampled).tried and not maker.keep_models


def test_where_objects_are_processed():
    cpu, gpu, mps = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
    cases = [("auto", gpu, gpu), ("gpu", gpu, gpu), ("cpu", gpu, cpu), ("auto", cpu, cpu), ("auto", mps, cpu)]
    for choice, sampling, expected in cases:
        assert processing_device(choice, sampling) == expected, (choice, sampling)
    with pytest.raises(SettingsError, match="--finish-on gpu: objects are sampled on the CPU"):
        processing_device("gpu", cpu)


@pytest.mark.parametrize(("finish_on", "told"), [(None, "gpu"), (torch.device("cpu"), "cpu")])
def test_the_manifest_says_where_as_the_option_does(finish_on, told, tmp_path):
    """A batch on Ray said gpu, one without cuda."""
    begun = {}
    record = SimpleNamespace(todo=[], begin=begun.update, end=lambda why: None)
    run(SimpleNamespace(device=torch.device("cuda"), recipe=Recipe()), record, tmp_path, True, finish_on)
    assert begun["finish_on"] == told


def test_when_a_process_beside_pays(monkeypatch):
    """A chosen backend may run on the GPU alone: it can stand in the way of processing beside it, not of writing."""
    cpu, gpu, chosen = torch.device("cpu"), torch.device("cuda"), Recipe(backends={"simplify": "cumesh"})
    monkeypatch.setattr(beside_module, "cores", lambda: 4)
    assert pays(gpu, gpu, Recipe()) and pays(gpu, cpu, Recipe()) and pays(gpu, gpu, chosen)
    assert not pays(gpu, cpu, chosen) and not pays(cpu, cpu, Recipe())
    monkeypatch.setattr(beside_module, "cores", lambda: 2)
    assert not pays(gpu, gpu, Recipe())


def test_an_object_is_not_handed_over_where_memory_is_short(monkeypatch, tmp_path):
    class Sampled:
        bytes = 1_000_000_000

    monkeypatch.setattr(beside_module, "free_memory", lambda: 10_000_000_000)
    with Beside(Recipe(), tmp_path) as beside:
        assert not beside.takes(Sampled()) and beside._process is None
