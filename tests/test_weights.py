"""Checkpoints in both layouts, strictly read, from a folder and from the hub."""

import json
import shutil

import pytest
import torch
from bundles import PREFIXES, bundle
from commands import Commands
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError, SettingsError
from pipeline.models import build
from pipeline.spec import (
    IMAGE_ENCODER,
    PIPELINE_TYPES,
    RELEASED,
    RELEASED_MODELS,
    SHAPE_FLOW_1024,
    CheckpointSpec,
    PipelineType,
)
from pipeline.weights import Models, open_checkpoint

CPU = torch.device("cpu")


def change(path, edit):
    """Rewrite a safetensors file through edit(tensors)."""
    tensors = {key: value for key, value in load_file(path).items() if value.dtype != torch.complex64}
    edit(tensors)
    save_file(tensors, path)


def test_the_released_layout(checkpoint):
    opened = open_checkpoint(checkpoint)
    assert set(opened.roles) == {*PIPELINE_TYPES["512"].roles(), *PIPELINE_TYPES["1024_cascade"].roles()}
    assert opened.spec.structure_sampler.steps == 4 and opened.spec.shape_sampler.time_shift == 3.0
    assert opened.spec.default_pipeline_type == "1024_cascade" and len(opened.spec.shape_normalisation.mean) == 8
    models = Models(opened, build)
    for role in opened.roles:
        model = models.get(role, CPU)
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_models_move_without_their_files(copy):
    models = Models(open_checkpoint(copy), build)
    role = "sparse_structure_decoder"
    first = models.get(role, CPU, torch.float16)
    shutil.rmtree(copy)
    models.move(torch.device("meta"))
    moved = models.get(role, torch.device("meta"), torch.float16)
    assert moved is first and {parameter.device.type for parameter in moved.parameters()} == {"meta"}


def test_models_are_loaded_once_and_released(checkpoint):
    models = Models(open_checkpoint(checkpoint), build)
    role = "sparse_structure_decoder"
    first = models.get(role, CPU)
    assert models.get(role, CPU) is first
    assert models.get(role, CPU, torch.float16) is not first  # another precision is another module
    models.release()
    assert models.get(role, CPU) is not first


def test_torso_dtype(checkpoint):
    model = Models(open_checkpoint(checkpoint), build).get("shape_slat_flow_model_512", CPU, torch.bfloat16)
    assert model.blocks[0].mlp.mlp[0].weight.dtype == torch.bfloat16
    assert model.input_layer.weight.dtype == model.blocks[0].norm2.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_comfyui_bundles_give_the_same_models(checkpoint, tmp_path, dtype):
    folder = tmp_path / "bundles"
    folder.mkdir()
    flows, decoders = list(PREFIXES)[:4], list(PREFIXES)[4:]
    bundle(checkpoint, folder / "flows.safetensors", flows, dtype, "model.diffusion_model.")
    bundle(checkpoint, folder / "shape_vae.safetensors", decoders[:2], dtype)
    bundle(checkpoint, folder / "texture_vae.safetensors", decoders[2:], dtype, "vae.")
    opened = open_checkpoint(folder)
    assert opened.spec == RELEASED and set(opened.roles) == {*PREFIXES.values(), IMAGE_ENCODER}
    original = Models(open_checkpoint(checkpoint), build)
    bundled = Models(opened, build)
    for role in PREFIXES.values():
        expected = original.get(role, CPU).state_dict()
        found = bundled.get(role, CPU, torch.float32).state_dict()
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == torch.float32 and torch.equal(found[key], value.to(dtype).float()), key
        config = bundled.config(role)["args"] | {"dtype": None, "use_fp16": None, "mlp_ratio": None}
        for key, value in original.config(role)["args"].items():
            if key in ("model_channels", "num_heads", "num_blocks", "channels", "cond_channels", "num_res_blocks"):
                assert config[key] == value, key


def test_one_bundle_alone_names_what_it_lacks(checkpoint, tmp_path):
    bundle(checkpoint, tmp_path / "shape.safetensors", ["img2shape_512.", "shape_dec."])
    opened = open_checkpoint(tmp_path / "shape.safetensors")
    with pytest.raises(
        CheckpointError, match="Type 512 needs sparse_structure_flow_model, .* Choose the complete checkpoint"
    ):
        opened.require(PIPELINE_TYPES["512"])


def test_two_models_for_one_role_are_refused(checkpoint, tmp_path):
    """Copies of one file are not; of several precisions the most exact is taken, which is said."""
    for name in ("one", "two"):
        bundle(checkpoint, tmp_path / f"{name}.safetensors", ["txt_dec."])
    assert open_checkpoint(tmp_path).files("tex_slat_decoder").path.name == "one.safetensors"
    bundle(checkpoint, tmp_path / "bf16.safetensors", ["txt_dec."], torch.bfloat16)
    opened = open_checkpoint(tmp_path)
    assert opened.files("tex_slat_decoder").path.name == "one.safetensors"
    assert "tex_slat_decoder: one.safetensors (f32) is used, not bf16.safetensors (bf16)." in opened.notes
    change(tmp_path / "two.safetensors", lambda t: t.update({"txt_dec.output_layer.bias": torch.ones(6)}))
    (tmp_path / "bf16.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"Both .*one.safetensors and .*two.safetensors hold tex_slat_decoder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", [{}, {"use_gated_mlp": True, "hidden_act": "silu"}], ids=["plain", "gated"])
def test_a_single_file_encoder(kind, tmp_path):
    """The DINOv3 file that circulates for ComfyUI: the encoder's keys, with an upsampler's beside them. Gated ones, of
    the larger models, have SiLU, of which no key tells."""
    config = {"name": "DinoV3FeatureExtractor", "args": {"hidden_size": 64, "intermediate_size": 96}}
    config["args"] |= {"num_hidden_layers": 3, "num_attention_heads": 1, "num_register_tokens": 4, "patch_size": 16}
    config["args"] |= kind
    original = build(config)
    save_file({**original.state_dict(), "naf.conv.weight": torch.zeros(3)}, tmp_path / "dino.safetensors")
    opened = open_checkpoint(tmp_path / "dino.safetensors")
    found = Models(opened, build).get(IMAGE_ENCODER, CPU)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(pixels), original.eval()(pixels))


def test_an_encoder_under_timms_names(tmp_path):
    """Queries, keys and values are one matrix there, without biases."""
    config = {"name": "DinoV3FeatureExtractor", "args": {"hidden_size": 64, "intermediate_size": 96}}
    config["args"] |= {"num_hidden_layers": 2, "num_attention_heads": 1, "num_register_tokens": 4, "patch_size": 16}
    config["args"] |= {"query_bias": False, "value_bias": False}
    original = build(config).eval()
    renamed = {}
    names = {"layer_scale1.lambda1": "gamma_1", "layer_scale2.lambda1": "gamma_2", "attention.o_proj": "attn.proj"}
    names |= {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2", "embeddings.cls_token": "cls_token"}
    names |= {"embeddings.register_tokens": "reg_token", "embeddings.patch_embeddings": "patch_embed.proj"}
    weights = {key: torch.randn_like(value) / 8 for key, value in original.state_dict().items()}
    original.load_state_dict(weights)
    for key, value in weights.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if "_proj" not in key and "mask" not in key:
            renamed[key.replace("layer.", "blocks.")] = value
    for n in range(2):
        parts = [weights[f"layer.{n}.attention.{part}_proj.weight"] for part in "qkv"]
        renamed[f"blocks.{n}.attn.qkv.weight"] = torch.cat(parts)
    assert len(renamed) == 4 + 13 * 2 + 2
    save_file(renamed, tmp_path / "timm.safetensors")
    found = Models(open_checkpoint(tmp_path / "timm.safetensors"), build).get(IMAGE_ENCODER, CPU)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(pixels), original(pixels))


def test_another_image_encoder(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="image encoder .* is neither a folder, nor a safetensors file"):
        open_checkpoint(checkpoint, tmp_path / "absent" / "encoder").files(IMAGE_ENCODER)
    opened = open_checkpoint(checkpoint, checkpoint / "image_encoder")
    assert Models(opened, build).get(IMAGE_ENCODER, CPU).patch_size == 16


def test_released_configurations_build():
    """The sizes that `bench --full-size` and bundles use; 1.29 G parameters a flow model as released."""
    with torch.device("meta"):
        count = {role: sum(p.numel() for p in build(config).parameters()) for role, config in RELEASED_MODELS.items()}
    assert count[SHAPE_FLOW_1024] == pytest.approx(1.29e9, rel=0.01)
    assert count["shape_slat_decoder"] == pytest.approx(474e6, rel=0.01)
    assert count[IMAGE_ENCODER] == pytest.approx(303e6, rel=0.01)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("from_latent.bias"), "missing from_latent.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda t: t.update({"from_latent.bias": torch.zeros(5)}),
            r"from_latent.bias has shape \[5\] instead of \[32\]",
        ),
    ],
)
def test_keys_and_shapes_are_strict(copy, edit, message):
    change(copy / "ckpts" / "shape_slat_decoder.safetensors", edit)
    with pytest.raises(CheckpointError, match=message):
        Models(open_checkpoint(copy), build).get("shape_slat_decoder", CPU)


def test_missing_truncated_and_foreign_files(copy, tmp_path):
    models = Models(open_checkpoint(copy), build)
    weights = copy / "ckpts" / "tex_slat_decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"tex_slat_decoder.safetensors \(5,000 bytes\) is damaged or truncated"):
        models.get("tex_slat_decoder", CPU)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"tex_slat_decoder.safetensors does not exist"):
        models.get("tex_slat_decoder", CPU)
    weights.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        Models(open_checkpoint(copy), build).get("tex_slat_decoder", CPU)
    with pytest.raises(CheckpointError, match="neither a folder, nor a safetensors file, nor a Hugging Face"):
        open_checkpoint(tmp_path / "absent" / "folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither pipeline.json .* nor a ComfyUI bundle"):
        open_checkpoint(tmp_path / "empty")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda args: args["shape_slat_sampler"].update(name="DDIM"),
            "shape_slat_sampler.name is 'DDIM'; expected one of",
        ),
        (lambda args: args.pop("tex_slat_normalization"), "not in the TRELLIS.2 layout.*tex_slat_normalization"),
        (lambda args: args["image_cond_model"].update(name="CLIP"), "image encoder 'CLIP'"),
        (lambda args: args["models"].pop("tex_slat_decoder"), "Type 512 needs tex_slat_decoder"),
    ],
)
def test_pipeline_json_is_checked(copy, edit, message):
    path = copy / "pipeline.json"
    content = json.loads(path.read_text())
    edit(content["args"])
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(copy).require(PIPELINE_TYPES["512"])


def test_geometry_needs_no_texture_models(copy):
    path = copy / "pipeline.json"
    content = json.loads(path.read_text())
    for role in list(content["args"]["models"]):
        if role.startswith("tex"):
            del content["args"]["models"][role]
    path.write_text(json.dumps(content))
    shape = open_checkpoint(copy)
    shape.require(PIPELINE_TYPES["1024_cascade"], texture=False)
    assert shape.has(PIPELINE_TYPES["512"], texture=False) and not shape.has(PIPELINE_TYPES["512"])


def test_what_can_be_chosen_is_named(copy):
    """A checkpoint without the finer flows has one type left, be it not the one that it says."""
    path = copy / "pipeline.json"
    content = json.loads(path.read_text())
    content["args"]["models"] = {role: each for role, each in content["args"]["models"].items() if "1024" not in role}
    path.write_text(json.dumps(content))
    opened = open_checkpoint(copy)
    assert opened.default_pipeline_type is PIPELINE_TYPES["1024_cascade"] and opened.has(PIPELINE_TYPES["512"])
    with pytest.raises(CheckpointError, match="1024_cascade needs .* Choose type 512 or the complete checkpoint"):
        opened.require(opened.default_pipeline_type)
    with pytest.raises(CheckpointError, match="Resolution 1024_cascade needs .* Choose resolution 512 or"):
        opened.require(opened.default_pipeline_type, setting="resolution")  # the name of the nodes' widget


def test_the_structure_decoder_of_another_repository(copy):
    """A value may name another repository: a copy beside the others or in a folder beside this one is used first."""
    path = copy / "pipeline.json"
    content = json.loads(path.read_text())
    content["args"]["models"]["sparse_structure_decoder"] = "microsoft/TRELLIS-image-large/ckpts/ss_dec"
    path.write_text(json.dumps(content))
    ours = [copy / "ckpts" / f"sparse_structure_decoder.{kind}" for kind in ("json", "safetensors")]
    for target in (copy / "ckpts", copy.parent / "TRELLIS-image-large" / "ckpts"):
        target.mkdir(parents=True, exist_ok=True)
        moved = [file.rename(target / f"ss_dec{file.suffix}") for file in ours]
        files = open_checkpoint(copy).files("sparse_structure_decoder")
        assert files.path == target / "ss_dec.safetensors"
        ours = moved


def test_the_shape_encoder_stands_in_a_second_description(copy, golden):
    assert "shape_slat_encoder" not in open_checkpoint(copy).roles
    data = golden("shape_enc")
    (copy / "ckpts" / "shape_enc.json").write_text(json.dumps(data.config))
    save_file(data.weights, copy / "ckpts" / "shape_enc.safetensors")
    description = {"args": {"models": {"shape_slat_encoder": "ckpts/shape_enc"}}}
    (copy / "texturing_pipeline.json").write_text(json.dumps(description))
    encoder = Models(open_checkpoint(copy), build).get("shape_slat_encoder", CPU)
    assert torch.equal(encoder.to_latent.bias, data["w.to_latent.bias"])


def test_routes():
    assert PipelineType.named("1536_cascade").shape[1].grid_scale == 1.5
    assert PIPELINE_TYPES["512"].image_scales() == (1,) and PIPELINE_TYPES["1024"].image_scales() == (1, 2)
    assert PIPELINE_TYPES["512"].roles(texture=False)[-1] == "shape_slat_decoder"
    with pytest.raises(SettingsError, match="Unknown type '2048'; choose one of 512, 1024, 1024_cascade, 1536_cascade"):
        PipelineType.named("2048")


def test_released_samplers_match_the_released_pipeline_json():
    """The table of the released samplers, read through the same code as a checkpoint's JSON."""

    def sampler(guidance, rescale, interval, rescale_t):
        params = {"steps": 12, "guidance_strength": guidance, "guidance_rescale": rescale}
        params |= {"guidance_interval": interval, "rescale_t": rescale_t}
        return {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}

    def normalisation(one):
        return {"mean": list(one.mean), "std": list(one.std)}

    args = {
        "sparse_structure_sampler": sampler(7.5, 0.7, [0.6, 1.0], 5.0),
        "shape_slat_sampler": sampler(7.5, 0.5, [0.6, 1.0], 3.0),
        "tex_slat_sampler": sampler(1.0, 0.0, [0.6, 0.9], 3.0),
        "shape_slat_normalization": normalisation(RELEASED.shape_normalisation),
        "tex_slat_normalization": normalisation(RELEASED.texture_normalisation),
        "image_cond_model": {"name": "DinoV3FeatureExtractor", "args": {"model_name": "x"}},
    }
    assert CheckpointSpec.from_json(args) == RELEASED
    assert len(RELEASED.shape_normalisation.mean) == len(RELEASED.texture_normalisation.std) == 32


def test_the_hub(hub, picture, tmp_path):
    """Download, interruption and going on, what is refused; then offline from the cache."""
    environment, handler = hub
    state = tmp_path / "state.safetensors"

    def command(repository):
        quick = ("--structure-steps", 1, "--shape-steps", 1, "--texture-steps", 1, "--type", 512, "--save-state", state)
        return ("generate", picture, "--checkpoint", repository, *quick)

    with Commands(environment) as online:
        handler.breaks.add("ckpts/tex_slat_decoder.safetensors")
        code, _, err = online.run(*command("acme/small"))
        assert code == 1 and not state.exists()
        assert "The download of ckpts/tex_slat_decoder.safetensors of acme/small was interrupted" in err
        assert "Run the same command again" in err and "Traceback" not in err
        handler.breaks.clear()
        code, _, err = online.run(*command("acme/small"))
        assert code == 0 and state.exists(), err
        for repository, message in (
            ("acme/absent", "Hugging Face has no repository acme/absent"),
            ("acme/gated", "acme/gated is gated. Accept its terms"),
        ):
            code, _, err = online.run(*command(repository))
            assert code == 1 and message in err and "Traceback" not in err
    state.unlink()
    with Commands({**environment, "HF_HUB_OFFLINE": "1"}) as offline:
        code, _, err = offline.run(*command("acme/small"))
        assert code == 0 and state.exists(), err
        code, _, err = offline.run(*command("acme/other"))
        assert code == 1 and "is not in the local cache and cannot be downloaded" in err and "Traceback" not in err


def test_a_path_that_is_nearly_right_is_named(tmp_path, monkeypatch):
    """What is no folder here may be a repository; where that fails, too, the path may have been meant."""
    from pathlib import Path

    from pipeline.weights.checkpoint import _misspelt

    (tmp_path / "checkpoints" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoints", "smal")
    assert _misspelt(path) == f" As a path, {path} is not there; did you mean small?"
    assert _misspelt(Path("acme/other")) == _misspelt(Path("checkpoints/other")) == ""
