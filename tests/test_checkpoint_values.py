"""Checkpoints whose JSON is wrong, hostile or not of one piece: said before the first stage, with the cure."""

import json
import random
import shutil

import pytest
from damaged import edited, fetch

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.models.image_encoder import encoder_arguments
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES
from pipeline.weights import Models, open_checkpoint

SLICES = 24  # how much of all changes of every JSON one run of the tests tries


VALUES = [
    None,
    -1,
    0,
    7,
    10**9,
    1.5,
    1e300,
    10**400,
    "x",
    "../secret/w",
    "9" * 10**5,
    [],
    [1, 2, 3],
    {},
    {"a": {}},
    True,
]
VALUES.append(json.loads("[" * 200 + "]" * 200))


def places(value, path=()):
    """The path of every value in a JSON document; of a long list its first item alone."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(document, path, value):
    """The document with another value there."""
    if not path:
        return value
    inner = document = json.loads(json.dumps(document))
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def test_any_value_in_any_json_is_taken_or_named(copy):
    """Every entry of every JSON replaced by what does not belong there: no traceback, no hang, no long text."""
    files = [copy / "pipeline.json", copy / "image_encoder" / "config.json"]
    files += [copy / "ckpts" / f"{role}.json" for role in PIPELINE_TYPES["512"].roles()[1:]]
    cases = []
    for path in files:
        document = json.loads(path.read_text())
        cases += [(path, document, place, value) for place in places(document) for value in VALUES]
    refused = 0
    tried = random.Random(0).sample(cases, len(cases) // SLICES)
    for path, document, place, value in tried:
        path.write_text(json.dumps(put(document, place, value)))
        role = IMAGE_ENCODER if path.name == "config.json" else path.stem
        try:
            fetch(copy, [role] if role in PIPELINE_TYPES["512"].roles() else ["sparse_structure_decoder"])
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) < 1200, (path, place)
        path.write_text(json.dumps(document))
    assert refused > len(tried) / 2


SIZES = {
    "blocks": ("shape_slat_flow_model_512", {"num_blocks": 10**9}, "num_blocks is 1000000000; expected .* 1-256"),
    "width": ("tex_slat_decoder", {"model_channels": [10**9] * 5}, r"model_channels\[0\] is 1000000000"),
    "levels": ("tex_slat_decoder", {"num_blocks": [1]}, "model_channels has 5 levels and num_blocks 1"),
    "neighbours": ("tex_slat_decoder", {"model_channels": [32, 12, 16, 16, 8]}, "32 and 12 are neighbours"),
    "heads": ("shape_slat_flow_model_512", {"num_heads": 5}, "model_channels 64 must be an even number for each of 5"),
    "type": ("sparse_structure_decoder", {"channels": "wide"}, "channels is 'wide'; expected a list"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_have_bounds(copy, case):
    """Before anything is built from them: a thousand million blocks would never end."""
    role, args, message = SIZES[case]
    edited(copy / "ckpts" / f"{role}.json", lambda content: content["args"].update(args))
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"attn_implementation": "someone/kernel:forward"},
            "attn_implementation is 'someone/kernel:forward'; expected",
        ),
        ({"_attn_implementation": "flash_attention_2"}, "_attn_implementation is"),
        ({"auto_map": {"AutoModel": "someone/code--x.Y"}}, "an entry 'auto_map' that is not known"),
        ({"quantization_config": {"quant_method": "x"}}, "an entry 'quantization_config' that is not known"),
        ({"hidden_act": "someone.code"}, "hidden_act is 'someone.code'; expected one of 'gelu', 'silu'"),
        ({"model_type": "clip"}, "model_type is 'clip'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 1023}, "hidden_size 1023 must be a multiple of 4 for each of 2 heads"),
        ({"patch_size": [16, 16]}, "patch_size is a list of 2 items"),
    ],
)
def test_an_encoders_config_has_known_entries_alone(copy, entry, message):
    edited(copy / "image_encoder" / "config.json", lambda content: content.update(entry))
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


def test_only_what_makes_the_network_is_taken(checkpoint):
    config = json.loads((checkpoint / "image_encoder" / "config.json").read_text())
    passed = encoder_arguments({**config, "attn_implementation": "eager"})
    assert passed["hidden_size"] == 32 and not {"attn_implementation", "architectures", "id2label"} & set(passed)


PATHS = [
    "../secret/w",
    "/etc/secret/w",
    "ckpts/../../secret/w",
    "secret/../w",
    "C:/secret/w",
    "secret\\w",
    "a\0b",
    "a//b",
]


@pytest.mark.parametrize("value", PATHS)
def test_paths_of_a_checkpoint_stay_inside(copy, value):
    shutil.copytree(copy / "ckpts", copy.parent / "secret")
    for name in ("models", "image_cond_model"):
        document = json.loads((copy / "pipeline.json").read_text())
        if name == "models":
            document["args"]["models"]["tex_slat_decoder"] = value
        else:
            document["args"]["image_cond_model"]["args"]["model_name"] = value
        (copy / "pipeline.json").write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match="which is no path inside the checkpoint"):
            open_checkpoint(copy)


def test_a_folder_beside_the_checkpoint_is_not_read(copy):
    """A name of three parts is another repository's; only the one that the released checkpoint names may lie beside."""
    (copy.parent / "secret").mkdir()
    for kind in ("json", "safetensors"):
        shutil.copy(copy / "ckpts" / f"tex_slat_decoder.{kind}", copy.parent / "secret" / f"w.{kind}")
    edited(copy / "pipeline.json", lambda content: content["args"]["models"].update(tex_slat_decoder="owner/secret/w"))
    source = open_checkpoint(copy).sources["tex_slat_decoder"]
    assert source.get.args[0].__self__.repo == "owner/secret"  # asked of the hub


def test_links_may_lead_out(copy, tmp_path):
    shutil.move(copy / "ckpts", tmp_path / "elsewhere")
    (copy / "ckpts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    fetch(copy)


TOGETHER = {
    "normalisation": (
        "pipeline.json",
        lambda content: [each.append(1.0) for each in content["args"]["shape_slat_normalization"].values()],
        r"channels of the shape latent, 8 in shape_slat_flow_model_512 and 9 in shape_slat_normalization",
    ),
    "mean and std": (
        "pipeline.json",
        lambda content: content["args"]["tex_slat_normalization"]["std"].pop(),
        "mean has 8 channels and its std 7",
    ),
    "picture and patch": (
        "pipeline.json",
        lambda content: content["args"]["image_cond_model"]["args"].update(image_size=7),
        "image_size 7, which is no multiple of the image encoder's patch_size 16",
    ),
    "role": (
        "pipeline.json",
        lambda content: content["args"]["models"].update(sparse_structure_decoder="ckpts/tex_slat_decoder"),
        "JSON of sparse_structure_decoder is 'SparseUnetVaeDecoder'; expected one of 'SparseStructureDecoder'",
    ),
    "grids": (
        "ckpts/shape_slat_flow_model_512.json",
        lambda content: content["args"].update(resolution=24),
        "a structure of 64 voxels a side cannot be pooled to the 24 of shape_slat_flow_model_512",
    ),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_models_of_different_checkpoints_are_named(copy, case):
    name, change, message = TOGETHER[case]
    edited(copy / name, change)
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


def test_the_width_of_the_condition_is_compared(copy, root):
    """An image encoder of another checkpoint: its tokens do not fit the flows."""
    models = Models(open_checkpoint(copy, root / "checkpoints" / "small" / "image_encoder"), build)
    with pytest.raises(
        CheckpointError, match="width of the condition, 192 in image_encoder and 32 in sparse_structure"
    ):
        models.fetch(PIPELINE_TYPES["512"].roles())
