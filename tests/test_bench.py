"""The history of measurements and its tables; `bench --reference` with a fake of the form of Microsoft's code."""

import json
import sys
from dataclasses import replace
from textwrap import dedent

import pytest
import torch
from generate_texts import ROOT

from pipeline.bench import history, networks
from pipeline.bench import run as bench
from pipeline.bench.networks import RandomModels, cases, small_size
from pipeline.bench.reference import Reference
from pipeline.errors import SettingsError
from pipeline.runtime import Runtime, Step
from pipeline.spec import RELEASED, STRUCTURE_FLOW, SamplerSettings
from pipeline.stages import table

CPU = torch.device("cpu")
# What `--reference` asks of microsoft/TRELLIS.2: classes by the names and arguments of a checkpoint's configuration,
# sparse tensors of (features, coordinates), subdivisions as features [T, 8] of which those above 0 exist. Children are
# numbered as its SparseChannel2Spatial does. The work is done by our networks.
MODELS = """
import torch
from pipeline.models import build
from pipeline.models.layers import PLAIN
from pipeline import sparse
from ..modules.sparse import SparseTensor

def _ours(x):
    return sparse.SparseTensor(sparse.Voxels(x.coords), x.feats)

def _made(name, args):
    net = build({"name": name, "args": args})
    return net, net.forward

def SparseStructureDecoder(**args):
    return _made("SparseStructureDecoder", args)[0]

def SparseStructureFlowModel(**args):
    net, forward = _made("SparseStructureFlowModel", args)
    net.forward = lambda x, t, cond: forward(x, t, net.context(cond), PLAIN)
    net.register_buffer("rope_phases", torch.zeros(1))
    return net

def SLatFlowModel(**args):
    net, forward = _made("SLatFlowModel", args)
    net.forward = lambda x, t, cond: SparseTensor(forward(_ours(x), t, net.context(cond), None, PLAIN), x.coords)
    return net

def SparseUnetVaeDecoder(**args):
    assert not args["pred_subdiv"] and args["block_args"][0] == {}
    net, forward = _made("SparseUnetVaeDecoder", args)

    def decode(x, guide_subs):
        coords, subdivisions = x.coords, []
        for guide in guide_subs:
            assert torch.equal(guide.coords, coords)
            occupied = guide.feats > 0
            parent, child = occupied.nonzero().unbind(1)
            coords = coords[parent].clone()
            coords[:, 1:] *= 2
            for axis in range(3):
                coords[:, axis + 1] += child // 2**axis % 2
            subdivisions.append(sparse.subdivide(sparse.Voxels(guide.coords), occupied))
            assert torch.equal(subdivisions[-1].children.coords, coords)
        return SparseTensor(forward(_ours(x), subdivisions, PLAIN)[0].feats, coords)

    net.forward = decode
    return net
"""
SPARSE = """
class SparseTensor:
    def __init__(self, feats, coords):
        self.feats, self.coords = feats, coords
"""


@pytest.fixture
def clone(tmp_path):
    """clone(models=text): a folder of the form of a clone of microsoft/TRELLIS.2."""

    def make(models=MODELS):
        files = {"models": models, "modules": "", "modules/sparse": SPARSE}
        for name, text in files.items():
            (tmp_path / "trellis2" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "trellis2" / name / "__init__.py").write_text(dedent(text))
        (tmp_path / "trellis2" / "__init__.py").write_text("raise ImportError('renderers')")  # is not to be run
        return tmp_path

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "trellis2"]:
        del sys.modules[name]


def tiny():
    """Every network at one small size, in the reference too in fp32, as CPUs are slow in 16 bits."""
    changes = {"dtype": "float32", "use_fp16": False}
    models = {
        role: {**config, "args": {**config["args"], **{key: changes[key] for key in changes if key in config["args"]}}}
        for role, config in small_size().models.items()
    }
    models[STRUCTURE_FLOW]["args"]["resolution"] = 4
    size = replace(small_size(), models=models, surfaces=((8, 60, 1),))
    names = ("structure flow, one forward", "structure decoder", "latent flow, one forward")
    wanted = (*names, "shape decoder", "texture decoder")
    return size, [case for case in cases(size, CPU) if case.name in wanted]


def test_the_reference_is_measured_on_the_same_weights_and_inputs(clone, capsys):
    runtime, reference = Runtime(CPU, table(), torch.float32), Reference(clone())
    size, measured = tiny()
    models = RandomModels(size.models)
    for case in measured:
        ours, theirs = bench._compared(runtime, models, case, size.models[case.role], reference)
        assert (ours["implementation"], theirs["implementation"]) == ("ours", "reference"), case.name
        assert ours["seconds"] > 0 and theirs["seconds"] > 0 and theirs["first_seconds"] > 0
        assert theirs["difference"] < 1e-4, case.name
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(measured) == 5 and all(row.count("|") == 9 for row in rows)


def test_other_weights_make_a_difference(clone):
    """The measure above can tell: the same network with other weights is far off."""
    runtime, reference = Runtime(CPU, table(), torch.float32), Reference(clone())
    size, measured = tiny()
    case = next(case for case in measured if case.name == "latent flow, one forward")
    build = reference.build
    reference.build = lambda config, weights, device: build(
        config, {key: value * 1.5 for key, value in weights.items()}, device
    )
    _, theirs = bench._compared(runtime, RandomModels(size.models), case, size.models[case.role], reference)
    assert theirs["difference"] > 0.05


def test_a_clone_that_cannot_be_used_is_refused_in_words(clone, tmp_path):
    with pytest.raises(SettingsError, match=r"no folder trellis2/models.*clone of github"):
        Reference(tmp_path / "absent")
    with pytest.raises(SettingsError, match=r"flex_gemm_of_none.*leave out --reference"):
        Reference(clone("import flex_gemm_of_none"))


def test_a_package_missing_at_the_first_call_is_named(clone):
    late = MODELS + "\ndef SparseStructureDecoder(**args):\n    import flash_attn_of_none\n"
    reference, size = Reference(clone(late)), small_size()
    config = next(each for each in size.models.values() if each["name"] == "SparseStructureDecoder")
    with pytest.raises(SettingsError, match="flash_attn_of_none"):
        reference.build(config, {}, CPU)


def test_a_network_with_weights_that_ours_lacks_is_refused(clone):
    reference, size = Reference(clone()), small_size()
    config = next(each for each in size.models.values() if each["name"] == "SparseStructureDecoder")
    with pytest.raises(SettingsError, match=r"weights that ours lacks, .*commit of microsoft/TRELLIS.2"):
        reference.build(config, {}, CPU)


def line(when="2026-01-01", **more):
    base = {"kind": "network", "machine": "chip", "torch": "2.13.0+cpu", "sizes": "small", "implementation": "ours"}
    base |= {"speed": "exact", "network": "flow", "size": "10", "seconds": 1.0, "peak_bytes": 2_000_000_000}
    return {**base, "when": when, **more}


def test_a_history_grows_and_is_read_back(tmp_path):
    path = tmp_path / "history.jsonl"
    history.append(path, [line()])
    history.append(path, [line(seconds=2.0)])
    assert history.read(path) == [line(), line(seconds=2.0)]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"kind": "other", "when": "1", "machine": "m"}', "null"])
def test_a_damaged_history_is_named_by_its_line(tmp_path, damage):
    path = tmp_path / "history.jsonl"
    history.append(path, [line()])
    path.write_text(path.read_text() + damage + "\n")
    with pytest.raises(SettingsError, match=r"Line 2 of .*history.jsonl"):
        history.read(path)


def test_the_newest_run_replaces_the_older_one_of_the_same_machine():
    old = [line(size="10"), line(size="20"), line(machine="other")]
    new = [line("2026-02-01T10:00:00+00:00", size="30", seconds=0.5)]
    assert history.newest([*old, *new]) == [*new, old[2]]
    text = history.tables([*old, *new])["network"]
    assert text.startswith("### chip, torch 2.13.0, 2026-02-01\n\n| network | size | seconds | peak memory |\n")
    assert "| flow | 30 | 0.500 | 2.00 GB |" in text and "### other" in text and "| flow | 20 |" not in text


def test_meshes_are_replaced_one_by_one():
    def row(when, mesh, seconds):
        more = {"mesh": mesh, "work": f"{mesh} faces", "notes": "fine"}
        return {**line(when, **more, seconds=seconds), "kind": "mesh"}

    text = history.tables([row("2026-01-01", "1 M", 1), row("2026-01-01", "3 M", 2), row("2026-02-01", "1 M", 3)])
    assert text["mesh"].splitlines()[0] == "### chip, torch 2.13.0, 2026-01-01 to 2026-02-01"
    assert text["mesh"].splitlines()[4:] == [
        "| 1 M faces | 3.00 | 2.00 GB | fine |",
        "| 3 M faces | 2.00 | 2.00 GB | fine |",
    ]


def test_columns_are_those_that_have_been_measured():
    other = line(implementation="reference", seconds=2.0, first_seconds=9.0, difference=0.012)
    speeds = [line(speed="fast", seconds=0.25), line(seconds=None, first_seconds=None, peak_bytes=0, size="20")]
    text = history.tables([line(first_seconds=1.5), *speeds, other])["network"]
    head = "network size first_call seconds peak_memory fast reference its_first_call its_memory difference"
    assert f"| {' | '.join(head.split()).replace('_', ' ')} |" in text
    assert "| flow | 10 | 1.500 | 1.000 | 2.00 GB | 0.250 | 2.000 | 9.000 | 2.00 GB | 1.2e-02 |" in text
    assert "| flow | 20 |  | out of memory |  |  |  |  |  |  |" in text


def test_a_whole_run_at_a_speed_has_a_table_of_its_own():
    base = {"kind": "stage", "when": "2026-01-01", "machine": "chip", "sizes": "small", "run": "512", "stage": "shape"}
    base |= {"seconds": 2.0, "loading_seconds": 0.0, "peak_bytes": 1_000_000_000}
    text = history.tables([base, base | {"speed": "fast", "seconds": 1.0}])["stage"]
    assert "### chip, 2026-01-01\n" in text and "### chip, speed fast, 2026-01-01\n" in text
    assert "| shape | 2.00 |" in text and "| shape | 1.00 |" in text


def test_what_is_measured_says_where_and_when():
    found = history.facts(CPU, sizes="small", memory_limit_gb=None)
    assert found["machine"].endswith("cores") and found["torch"] == torch.__version__ and found["sizes"] == "small"
    assert "memory_limit_gb" not in found and found["when"][4] == "-"
    assert history.heading([found | {"memory_limit_gb": 8}]).count("limited to 8 GB") == 1


def test_the_history_of_the_repository_says_where_each_number_is_from():
    lines = history.read(history.HISTORY)
    assert lines and all(line["machine"] and line["torch"] and "seconds" in line for line in lines)
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    printed = history.markdown(lines)
    assert [row for row in printed.splitlines() if row.startswith("|") and row not in document] == []


def test_bench_tables(run, tmp_path):
    (tmp_path / "h.jsonl").write_text(json.dumps(line()) + "\n")
    code, out, err = run("bench-tables", tmp_path / "h.jsonl")
    assert code == 0 and "## Networks" in out and "| flow | 10 | 1.000 | 2.00 GB |" in out, err
    code, _, err = run("bench-tables", tmp_path / "absent.jsonl")
    assert code == 1 and "cannot be read" in err and "--history" in err


def test_a_stage_that_reports_its_beginning_again_is_announced_once(capsys):
    announce = bench._Begun()
    for stage in ("unwrap", "unwrap", "bake", "bake", "unwrap"):
        announce(Step(stage, 0, 1))
    assert capsys.readouterr().err == "unwrap ...\nbake ...\nunwrap ...\n"


def test_bench_settings(run, tmp_path):
    code, _, err = run("bench", "--device", "cpu", "--memory-limit", 8)
    assert code == 1 and "for CUDA devices only" in err
    for option in ("--report", "--history"):
        code, _, err = run("bench", "--device", "cpu", option, tmp_path / "absent" / "x.json")
        assert code == 1 and "does not exist" in err
    code, _, err = run("bench", "--device", "cpu", "--faces", 0)
    assert code == 1 and "at least" in err
    code, _, err = run("bench", "--device", "cpu", "--reference", tmp_path)
    assert code == 1 and "clone of github.com/microsoft/TRELLIS.2" in err


def test_bench(run, tmp_path, monkeypatch):
    """The command with shallow networks on few voxels, and few steps of the samplers."""
    small, two = small_size(), SamplerSettings(2, 1.0)
    quick = replace(RELEASED, structure_sampler=two, shape_sampler=two, texture_sampler=two)
    monkeypatch.setattr(networks, "RELEASED", quick)
    for config in small.models.values():
        if "num_heads" in config["args"]:
            config["args"] |= {"num_blocks": 1, "model_channels": 64, "num_heads": 1}
        if "channels" in config["args"]:
            config["args"] |= {"channels": [8, 8, 8]}
    monkeypatch.setattr(bench, "_REPEATS", 1)
    surfaces = ((32, 300, 1), (64, 1200, 2))
    monkeypatch.setattr(bench, "small_size", lambda: replace(small, surfaces=surfaces, faces=2000, texture_size=64))
    report = tmp_path / "bench.json"
    history = tmp_path / "history.jsonl"
    runs, once = [], bench._whole_run
    monkeypatch.setattr(bench, "_whole_run", lambda *given: runs.append(given) or once(*given))
    options = ("--keep-models", "--faces", 1500, "--report", report, "--history", history)
    code, out, err = run("bench", "--device", "cpu", *options)
    assert code == 0, err
    assert len(runs) == 2 and runs[0][1] is runs[1][1] and "models in memory, second run" in out
    assert "faces to 1,500," in out
    told = [line.removesuffix(" ...") for line in err.splitlines() if line.endswith(" ...")]
    assert "image encoder" in told and told.count("texture") == 2 and told[-1] == "export", "what it is at"
    numbers = json.loads(report.read_text())
    assert {row["network"] for row in numbers["networks"]} == {
        "image encoder",
        "structure flow, one forward",
        "structure decoder",
        "latent flow, one forward",
        "shape decoder",
        "texture decoder",
    }
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in numbers["networks"])
    assert [row["stage"] for row in numbers["run"]][-1] == "export"
    assert "| latent flow, one forward | 1,200 tokens |" in out and "from start to end" in out
    monkeypatch.setattr(bench, "_whole_run", lambda *given: "nothing")
    code, out, err = run("bench", "--device", "cpu", "--run-only", "--report", tmp_path / "run.json")
    assert code == 0 and "image encoder" not in out and "from start to end" in out, err
    assert json.loads((tmp_path / "run.json").read_text())["networks"] == []
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert len(lines) == len(numbers["networks"]) + len(numbers["run"])
    assert all(line["machine"] and line["when"] and line["torch"] for line in lines)
    assert all(line["first_seconds"] > 0 for line in lines if line["kind"] == "network")
    assert all(line["run"].startswith("1024_cascade: ") for line in lines if line["kind"] == "stage")  # plan.fit asks
