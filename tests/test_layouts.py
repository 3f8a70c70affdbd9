"""Every layout in which people have the released files: sparse files of their sizes open for what they are."""

import json

import pytest
import released
from released import IMAGE_ENCODER, NAMES, PREFIXES, ROLES, config, description, pair, tensors, write, write_gguf

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.spec import PIPELINE_TYPES, STRUCTURE_DECODER
from pipeline.weights import open_checkpoint, survey

ALL = tuple(PIPELINE_TYPES)
_NETWORKS = {}


def build_once(config, *rest):
    """models.build, for a survey, which looks at names and shapes: of one configuration the same network."""
    key = json.dumps([config, *map(str, rest)], sort_keys=True)
    if key not in _NETWORKS:
        _NETWORKS[key] = build(config, *rest)
    return _NETWORKS[key]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """Nothing in the Hugging Face cache counts."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def encoder(path, outer=""):
    write(path, {outer + key: value for key, value in tensors(IMAGE_ENCODER).items()})
    return path


def microsoft(models):
    """visualbruno's: owners' folders side by side."""
    home = models / "microsoft" / "TRELLIS.2-4B"
    description(home)
    for role in ROLES:
        owner = "TRELLIS-image-large" if role == STRUCTURE_DECODER else "TRELLIS.2-4B"
        pair(models / "microsoft" / owner / "ckpts", role)
    encoder(models / "facebook" / "dinov3-vitl16-pretrain-lvd1689m" / "model.safetensors")
    return home


def pozzetti(models):
    description(models / "trellis2")
    for role in ROLES:
        pair(models / "trellis2" / "ckpts", role)
    encoder(models / "dinov3" / "model.safetensors")
    return models / "trellis2"


def v_sekai(models):
    home = pozzetti(models)
    (home / "pipeline.json").unlink()
    return home


def aero(models):
    home = models / "Trellis2"
    description(home)
    for role in ROLES:
        if "dec" in role:
            pair(home / "decoders" / "Stage2", role)
        else:
            folder = home / ("refiner" if "structure" in role else "shape" if "shape" in role else "texture")
            config(folder / f"{NAMES[role]}.json", role)
            for kind in ("Q4_K", "Q8_0"):
                write_gguf(folder / f"{NAMES[role]}_{kind}.gguf", tensors(role), kind)
    encoder(models / "Trellis2" / "Vision" / "dinov3-vitl16-pretrain-lvd1689m.safetensors")
    return home


def comfy(models, precision="bf16"):
    flows = {}
    for prefix, role in PREFIXES.items():
        listed = tensors(role) if precision == "bf16" else released.int8(tensors(role))
        flows |= {prefix + key: value for key, value in listed.items()}
    write(models / "diffusion_models" / f"trellis_2_{precision}.safetensors", flows)
    pixal = {f"{prefix}{key}": value for prefix, role in PREFIXES.items() for key, value in tensors(role).items()}
    pixal["model.img2shape.blocks.0.cross_attn.proj_linear.weight"] = ("BF16", [1536, 1024])
    write(models / "diffusion_models" / "pixal3d_bf16.safetensors", pixal)
    decoders = [("struct_dec.", "sparse_structure_decoder"), ("shape_dec.", "shape_slat_decoder")]
    for name, parts in (("shape", decoders), ("texture", [("txt_dec.", "tex_slat_decoder")])):
        listed = {p + key: ("BF16", shape) for p, role in parts for key, (_, shape) in tensors(role).items()}
        write(models / "vae" / f"trellis_2_{name}_vae_bf16.safetensors", listed)
    encoder(models / "clip_vision" / "dino_v3_vit_l.safetensors")
    return models


def int8(models):
    return comfy(models, "int8_convrot")


def both(models):
    comfy(models)
    return int8(models)


# layout -> types that it is complete for, precision of the flows
LAYOUTS = {
    microsoft: (ALL, "bf16"),
    pozzetti: (ALL, "bf16"),
    v_sekai: (ALL, "bf16"),
    aero: (ALL, "Q8_0"),
    comfy: (("1024", "1024_cascade", "1536_cascade"), "bf16"),
    int8: (("1024", "1024_cascade", "1536_cascade"), "int8"),
    both: (("1024", "1024_cascade", "1536_cascade"), "bf16"),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_opens(layout, tmp_path):
    types, precision = LAYOUTS[layout]
    found = survey(open_checkpoint(layout(tmp_path)), build_once)
    assert found.types == types, found.text()
    assert {p.precision for p in found.parts if "flow" in p.role and not p.problem} == {precision}
    assert {part.role for part in found.missing} <= {"tex_slat_flow_model_512"}


def test_the_files_have_the_published_sizes(tmp_path):
    """Of the tensors; headers differ by a few kB."""
    comfy(tmp_path)
    int8(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*.safetensors")}
    assert sizes["trellis_2_bf16.safetensors"] == pytest.approx(10.338e9, rel=1e-4)
    assert sizes["trellis_2_int8_convrot.safetensors"] == pytest.approx(5_253_048_192, rel=1e-4)
    assert sizes["trellis_2_shape_vae_bf16.safetensors"] == pytest.approx(1_095_844_024, rel=1e-4)
    assert sizes["trellis_2_texture_vae_bf16.safetensors"] == pytest.approx(948_461_364, rel=1e-4)
    assert sizes["dino_v3_vit_l.safetensors"] == pytest.approx(1_212_559_776, rel=1e-4)


def test_a_download_without_the_structure_decoder(tmp_path):
    """`hf download --local-dir` leaves out what lies in another repository; inspect says which, and where it is."""
    home = pozzetti(tmp_path)
    for path in (home / "ckpts").glob("ss_dec*"):
        path.unlink()
    found = survey(open_checkpoint(home), build_once)
    (part,) = found.missing
    assert found.types == () and part.role == STRUCTURE_DECODER
    assert "ckpts/ss_dec_conv3d_16l8_fp16.json and .safetensors of microsoft/TRELLIS-image-large" in part.cure
    told = found.as_json()
    assert told["types"] == [] and list(told["missing"]) == [STRUCTURE_DECODER] and json.dumps(told)
    assert told["roles"]["shape_slat_decoder"]["precision"] == "f16"
    assert "complete for no type, as it lacks sparse_structure_decoder" in found.line()


def test_a_cache_with_the_description_alone_is_not_complete(tmp_path):
    snapshot = tmp_path / "hub" / "models--microsoft--TRELLIS.2-4B" / "snapshots" / "af44b45f"
    description(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("af44b45f")
    found = survey(open_checkpoint(snapshot), build_once)
    assert found.types == () and len(found.missing) == 9
    assert {part.problem for part in found.missing} == {"not on this machine."}


def test_pixal3d_is_named(tmp_path):
    comfy(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"pixal3d_bf16.safetensors is Pixal3D, another model .* Take the file of"
    ):
        open_checkpoint(tmp_path / "diffusion_models" / "pixal3d_bf16.safetensors")


def test_one_missing_vae(tmp_path):
    comfy(tmp_path)
    (tmp_path / "vae" / "trellis_2_texture_vae_bf16.safetensors").unlink()
    found = survey(open_checkpoint(tmp_path), build_once)
    assert found.types == () and "tex_slat_decoder: not part of it. Get ckpts/tex_dec" in found.text()


def test_an_unreadable_precision_beside_a_good_one_is_left_out(tmp_path):
    comfy(tmp_path)
    entries = {p + key: ("U8", shape) for p, role in PREFIXES.items() for key, (_, shape) in tensors(role).items()}
    write(tmp_path / "diffusion_models" / "a_fp4.safetensors", entries)
    opened = open_checkpoint(tmp_path)
    assert opened.files("shape_slat_flow_model_1024").path.name == "trellis_2_bf16.safetensors"
    assert any("Left out: " in note and "a_fp4.safetensors" in note for note in opened.notes)


def test_another_encoder_is_not_replaced_by_the_released_one(tmp_path):
    """The encoder of a checkpoint that names another one is not replaced by what lies beside it."""
    home = pozzetti(tmp_path)
    content = json.loads((home / "pipeline.json").read_text())
    content["args"]["image_cond_model"]["args"]["model_name"] = "facebook/dinov3-vits16-pretrain-lvd1689m"
    (home / "pipeline.json").write_text(json.dumps(content))
    assert not open_checkpoint(home).here(IMAGE_ENCODER)


def test_inspect(run, tmp_path):
    """The command, for a person and for a program."""
    home = comfy(tmp_path, "int8_convrot") / "diffusion_models" / "trellis_2_int8_convrot.safetensors"
    code, out, _ = run("inspect", tmp_path, "--json")
    told = json.loads(out)
    assert code == 0 and told["types"] == ["1024", "1024_cascade", "1536_cascade"]
    assert told["roles"]["shape_slat_flow_model_512"]["precision"] == "int8"
    assert list(told["missing"]) == ["tex_slat_flow_model_512"] and set(told) >= {"types", "roles", "missing", "notes"}
    code, out, _ = run("inspect", home)
    assert code == 0 and "shape_slat_flow_model_1024: int8, 1.31 GB, trellis_2_int8_convrot.safetensors" in out
    assert "complete for no type, as it lacks sparse_structure_decoder" in out
    code, _, err = run("inspect", tmp_path / "absent" / "x" / "y")
    assert code == 1 and "is neither a folder" in err
