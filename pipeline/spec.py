"""Every number of a checkpoint: sampler settings, latent normalisation, pipeline types, and the released sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from .errors import CheckpointError, SettingsError, check_finite, unknown
from .schema import Check, items, number, one_of, record, text, whole

STRUCTURE_FLOW = "sparse_structure_flow_model"
STRUCTURE_DECODER = "sparse_structure_decoder"
SHAPE_FLOW_512 = "shape_slat_flow_model_512"
SHAPE_FLOW_1024 = "shape_slat_flow_model_1024"
SHAPE_DECODER = "shape_slat_decoder"
SHAPE_ENCODER = "shape_slat_encoder"
TEXTURE_FLOW_512 = "tex_slat_flow_model_512"
TEXTURE_FLOW_1024 = "tex_slat_flow_model_1024"
TEXTURE_DECODER = "tex_slat_decoder"
TEXTURE_ENCODER = "tex_slat_encoder"
IMAGE_ENCODER = "image_encoder"

# Tokens above which a cascade lowers its resolution (the reference's max_num_tokens).
MAX_TOKENS = 49152
MAX_STEPS = 1000  # of a sampler: what more of them would change is below the precision of its network


@dataclass(frozen=True)
class SamplerSettings:
    """One stage's flow-matching sampler. Times run from 1 (noise) to 0 (data)."""

    steps: int = 12
    guidance_scale: float = 7.5  # of classifier-free guidance; 1 is off
    guidance_rescale: float = 0.0  # 0 keeps the guided x0, 1 gives it the conditional x0's standard deviation
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # guidance counts where [0] <= t <= [1]
    time_shift: float = 1.0  # `rescale_t` in checkpoints and nodes; above 1, more steps near the noise
    sigma_min: float = 1e-5
    solver: str = "euler"  # a name of sampling.SOLVERS

    def __post_init__(self) -> None:
        check_finite(
            "A sampler's",
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
            time_shift=self.time_shift,
            sigma_min=self.sigma_min,
        )
        if self.steps < 1:
            raise SettingsError(f"A sampler needs at least 1 step, got {self.steps}.")
        if self.steps > MAX_STEPS:
            raise SettingsError(f"A sampler takes at most {MAX_STEPS:,} steps, got {self.steps:,}; 12 are usual.")
        if self.time_shift <= 0:
            raise SettingsError(f"The time shift (rescale_t) must be above 0, got {self.time_shift}.")
        if not 0 <= self.guidance_rescale <= 1:
            raise SettingsError(f"Guidance rescale must lie in 0-1, got {self.guidance_rescale}.")
        start, end = self.guidance_interval
        if not 0 <= start <= end <= 1:
            raise SettingsError(
                f"Guidance cannot count from {start} to {end}: the interval's start must not be above its end, and "
                "both lie in 0-1."
            )

    @classmethod
    def from_json(cls, sampler: Mapping) -> SamplerSettings:
        """Read one `*_sampler` entry of pipeline.json ({"name", "args", "params"}), which is checked already."""
        name, params = sampler["name"], sampler.get("params", {})
        guided = name != "FlowEulerSampler"
        start, end = params.get("guidance_interval", (0.0, 1.0))
        return cls(
            steps=int(params.get("steps", 50)),
            guidance_scale=float(params.get("guidance_strength", 3.0)) if guided else 1.0,
            guidance_rescale=float(params.get("guidance_rescale", 0.0)),
            guidance_interval=(float(start), float(end)),
            time_shift=float(params.get("rescale_t", 1.0)),
            sigma_min=float(sampler.get("args", {}).get("sigma_min", 1e-5)),
        )


@dataclass(frozen=True)
class Samplers:
    """The sampler of each stage; None: the checkpoint's own."""

    structure: SamplerSettings | None = None
    shape: SamplerSettings | None = None
    texture: SamplerSettings | None = None

    def changed(self) -> dict[str, dict]:
        """Those that are not the checkpoint's own, JSON-able, for files."""
        return {stage: sampler for stage, sampler in asdict(self).items() if sampler}


CHECKPOINTS_OWN = Samplers()


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of a latent: flow models see (latent - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, entry: Mapping) -> Normalisation:
        """Read a `*_slat_normalization` entry of pipeline.json, whose types are checked already.

        Raises:
            CheckpointError: mean and std differ in length.
        """
        if len(entry["mean"]) != len(entry["std"]):
            raise CheckpointError(
                f"A latent's mean has {len(entry['mean'])} channels and its std {len(entry['std'])}; both must be one "
                "for each channel."
            )
        return cls(tuple(entry["mean"]), tuple(entry["std"]))


@dataclass(frozen=True)
class Pass:
    """One run of a latent flow model.

    The grid of its voxels is the model's own `resolution` times `grid_scale`; the image is shown
    to the encoder at the checkpoint's `image_size` times `image_scale`.
    """

    model: str
    image_scale: int
    grid_scale: float = 1.0


@dataclass(frozen=True)
class PipelineType:
    """The passes that make the shape latent, coarse to fine, and the texture pass.

    One choice with several spellings: `pipeline_type` in pipeline.json and in a file's metadata, --pipeline-type or
    --type on the command line, the input `resolution` of the nodes.
    """

    name: str
    shape: tuple[Pass, ...]
    texture: Pass

    def roles(self, texture: bool = True) -> tuple[str, ...]:
        """The models this pipeline type needs, image encoder included."""
        needed = (IMAGE_ENCODER, STRUCTURE_FLOW, STRUCTURE_DECODER, *(p.model for p in self.shape), SHAPE_DECODER)
        return (*needed, self.texture.model, TEXTURE_DECODER) if texture else needed

    def image_scales(self, texture: bool = True) -> tuple[int, ...]:
        """The image scales the condition must hold; the structure flow always sees scale 1."""
        passes = (*self.shape, self.texture) if texture else self.shape
        return tuple(sorted({1, *(p.image_scale for p in passes)}))

    @staticmethod
    def named(name: str) -> PipelineType:
        """The row of PIPELINE_TYPES. Raises SettingsError, which lists the names."""
        if name not in PIPELINE_TYPES:
            raise SettingsError(unknown("type", name, PIPELINE_TYPES))
        return PIPELINE_TYPES[name]


_SHAPE_512, _SHAPE_1024 = Pass(SHAPE_FLOW_512, 1), Pass(SHAPE_FLOW_1024, 2)
_TEXTURE_512, _TEXTURE_1024 = Pass(TEXTURE_FLOW_512, 1), Pass(TEXTURE_FLOW_1024, 2)

PIPELINE_TYPES: dict[str, PipelineType] = {
    pipeline_type.name: pipeline_type
    for pipeline_type in (
        PipelineType("512", (_SHAPE_512,), _TEXTURE_512),
        PipelineType("1024", (_SHAPE_1024,), _TEXTURE_1024),
        PipelineType("1024_cascade", (_SHAPE_512, _SHAPE_1024), _TEXTURE_1024),
        PipelineType("1536_cascade", (_SHAPE_512, replace(_SHAPE_1024, grid_scale=1.5)), _TEXTURE_1024),
    )
}

# Their names in 0.1.
Route = PipelineType
ROUTES = PIPELINE_TYPES
route = PipelineType.named


_SAMPLER = record(
    {"name": one_of("FlowEulerSampler", "FlowEulerCfgSampler", "FlowEulerGuidanceIntervalSampler")},
    {
        "args": record({}, {"sigma_min": number(0, 0.5)}),
        "params": record(
            {},
            {
                "steps": whole(1, MAX_STEPS),
                "guidance_strength": number(0, 1000),
                "guidance_rescale": number(0, 1),
                "guidance_interval": items(number(0, 1), 2, 2),
                "rescale_t": number(1e-3, 1e3),
            },
        ),
    },
)
_NORMALISATION = record(
    {"mean": items(number(-1e6, 1e6), 1, 4096), "std": items(number(1e-6, 1e6), 1, 4096)},
)
# `args` of pipeline.json; what it does not name, such as the background remover, is not used.
_PIPELINE: Check = record(
    {
        "sparse_structure_sampler": _SAMPLER,
        "shape_slat_sampler": _SAMPLER,
        "tex_slat_sampler": _SAMPLER,
        "shape_slat_normalization": _NORMALISATION,
        "tex_slat_normalization": _NORMALISATION,
        "image_cond_model": record(
            {"name": text(64), "args": record({"model_name": text(512)}, {"image_size": whole(1, 4096)})}
        ),
    },
    {"default_pipeline_type": one_of(*PIPELINE_TYPES)},
)


@dataclass(frozen=True)
class CheckpointSpec:
    """What pipeline.json says apart from the models themselves."""

    structure_sampler: SamplerSettings
    shape_sampler: SamplerSettings
    texture_sampler: SamplerSettings
    shape_normalisation: Normalisation
    texture_normalisation: Normalisation
    default_pipeline_type: str = "1024_cascade"
    image_size: int = 512  # side in pixels at image scale 1

    @classmethod
    def from_json(cls, args: Mapping) -> CheckpointSpec:
        """Read the `args` of pipeline.json.

        Raises:
            CheckpointError: an entry is missing, of another type or out of bounds; the text names it.
        """
        try:
            args = _PIPELINE(args, "args")
            return cls(
                structure_sampler=SamplerSettings.from_json(args["sparse_structure_sampler"]),
                shape_sampler=SamplerSettings.from_json(args["shape_slat_sampler"]),
                texture_sampler=SamplerSettings.from_json(args["tex_slat_sampler"]),
                shape_normalisation=Normalisation.from_json(args["shape_slat_normalization"]),
                texture_normalisation=Normalisation.from_json(args["tex_slat_normalization"]),
                default_pipeline_type=args.get("default_pipeline_type", "1024_cascade"),
                image_size=args["image_cond_model"]["args"].get("image_size", 512),
            )
        except (CheckpointError, SettingsError) as error:
            raise CheckpointError(f"pipeline.json is not in the TRELLIS.2 layout: {error}") from error


# The released checkpoint, for layouts that carry no pipeline.json (ComfyUI bundles).
# fmt: off
_SHAPE_NORMALISATION = Normalisation(
    mean=(
        0.781296, 0.018091, -0.495192, -0.558457, 1.060530, 0.093252, 1.518149, -0.933218,
        -0.732996, 2.604095, -0.118341, -2.143904, 0.495076, -2.179512, -2.130751, -0.996944,
        0.261421, -2.217463, 1.260067, -0.150213, 3.790713, 1.481266, -1.046058, -1.523667,
        -0.059621, 2.220780, 1.621212, 0.877230, 0.567247, -3.175944, -3.186688, 1.578665,
    ),
    std=(
        5.972266, 4.706852, 5.445010, 5.209927, 5.320220, 4.547237, 5.020802, 5.444004,
        5.226681, 5.683095, 4.831436, 5.286469, 5.652043, 5.367606, 5.525084, 4.730578,
        4.805265, 5.124013, 5.530808, 5.619001, 5.103930, 5.417670, 5.269677, 5.547194,
        5.634698, 5.235274, 6.110351, 5.511298, 6.237273, 4.879207, 5.347008, 5.405691,
    ),
)
_TEXTURE_NORMALISATION = Normalisation(
    mean=(
        3.501659, 2.212398, 2.226094, 0.251093, -0.026248, -0.687364, 0.439898, -0.928075,
        0.029398, -0.339596, -0.869527, 1.038479, -0.972385, 0.126042, -1.129303, 0.455149,
        -1.209521, 2.069067, 0.544735, 2.569128, -0.323407, 2.293000, -1.925608, -1.217717,
        1.213905, 0.971588, -0.023631, 0.106750, 2.021786, 0.250524, -0.662387, -0.768862,
    ),
    std=(
        2.665652, 2.743913, 2.765121, 2.595319, 3.037293, 2.291316, 2.144656, 2.911822,
        2.969419, 2.501689, 2.154811, 3.163343, 2.621215, 2.381943, 3.186697, 3.021588,
        2.295916, 3.234985, 3.233086, 2.260140, 2.874801, 2.810596, 3.292720, 2.674999,
        2.680878, 2.372054, 2.451546, 2.353556, 2.995195, 2.379849, 2.786195, 2.775190,
    ),
)
# fmt: on
RELEASED = CheckpointSpec(
    structure_sampler=SamplerSettings(12, 7.5, 0.7, (0.6, 1.0), 5.0),
    shape_sampler=SamplerSettings(12, 7.5, 0.5, (0.6, 1.0), 3.0),
    texture_sampler=SamplerSettings(12, 1.0, 0.0, (0.6, 0.9), 3.0),
    shape_normalisation=_SHAPE_NORMALISATION,
    texture_normalisation=_TEXTURE_NORMALISATION,
)


def _flow(name: str, resolution: int, in_channels: int, out_channels: int) -> dict:
    return {
        "name": name,
        "args": {
            "resolution": resolution,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "model_channels": 1536,
            "cond_channels": 1024,
            "num_blocks": 30,
            "num_heads": 12,
            "mlp_ratio": 5.3334,
            "pe_mode": "rope",
            "share_mod": True,
            "qk_rms_norm": True,
            "qk_rms_norm_cross": True,
            "dtype": "bfloat16",
        },
    }


_UNET = {
    "model_channels": [1024, 512, 256, 128, 64],
    "latent_channels": 32,
    "num_blocks": [4, 16, 8, 4, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{}] * 5,
    "use_fp16": True,
}

# Where the released models are: paths in the repository microsoft/TRELLIS.2-4B, or in another one.
RELEASED_FILES: dict[str, str] = {
    STRUCTURE_FLOW: "ckpts/ss_flow_img_dit_1_3B_64_bf16",
    STRUCTURE_DECODER: "microsoft/TRELLIS-image-large/ckpts/ss_dec_conv3d_16l8_fp16",
    SHAPE_FLOW_512: "ckpts/slat_flow_img2shape_dit_1_3B_512_bf16",
    SHAPE_FLOW_1024: "ckpts/slat_flow_img2shape_dit_1_3B_1024_bf16",
    SHAPE_DECODER: "ckpts/shape_dec_next_dc_f16c32_fp16",
    TEXTURE_FLOW_512: "ckpts/slat_flow_imgshape2tex_dit_1_3B_512_bf16",
    TEXTURE_FLOW_1024: "ckpts/slat_flow_imgshape2tex_dit_1_3B_1024_bf16",
    TEXTURE_DECODER: "ckpts/tex_dec_next_dc_f16c32_fp16",
    IMAGE_ENCODER: "facebook/dinov3-vitl16-pretrain-lvd1689m",
}

# The encoders in that repository, which only meshes as input need.
RELEASED_ENCODERS: dict[str, str] = {
    SHAPE_ENCODER: "ckpts/shape_enc_next_dc_f16c32_fp16",
    TEXTURE_ENCODER: "ckpts/tex_enc_next_dc_f16c32_fp16",
}

# The configurations of the released models, by role: what `bench --full-size` builds.
RELEASED_MODELS: dict[str, dict] = {
    STRUCTURE_FLOW: _flow("SparseStructureFlowModel", 16, 8, 8),
    STRUCTURE_DECODER: {
        "name": "SparseStructureDecoder",
        "args": {
            "out_channels": 1,
            "latent_channels": 8,
            "num_res_blocks": 2,
            "num_res_blocks_middle": 2,
            "channels": [512, 128, 32],
            "use_fp16": True,
        },
    },
    SHAPE_FLOW_512: _flow("SLatFlowModel", 32, 32, 32),
    SHAPE_FLOW_1024: _flow("SLatFlowModel", 64, 32, 32),
    SHAPE_DECODER: {"name": "FlexiDualGridVaeDecoder", "args": {"resolution": 256, **_UNET}},
    TEXTURE_FLOW_512: _flow("SLatFlowModel", 32, 64, 32),
    TEXTURE_FLOW_1024: _flow("SLatFlowModel", 64, 64, 32),
    TEXTURE_DECODER: {"name": "SparseUnetVaeDecoder", "args": {"out_channels": 6, **_UNET, "pred_subdiv": False}},
    IMAGE_ENCODER: {
        "name": "DinoV3FeatureExtractor",
        "args": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_register_tokens": 4,
            "patch_size": 16,
            "image_size": 224,
        },
    },
}
