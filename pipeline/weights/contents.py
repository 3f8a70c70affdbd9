"""What a file of tensors means: weights, quantised ones with what belongs to them, and what is not read and why.

ComfyUI's quantised layers have beside their weight a text `comfy_quant`, which names the format, and factors
`weight_scale`; GGUF's are blocks of bytes that need nothing beside them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..packing import BLOCKS, Int8, Packing
from .damage import deleted
from .gguf import read_gguf
from .headers import Header, read_header
from .text import parse
from .timm import released_names

GGUF = ".gguf"
_PLAIN = frozenset({"F64", "F32", "F16", "BF16", "C64"})
_FORMAT, _SCALE, _WEIGHT = ".comfy_quant", ".weight_scale", ".weight"
_PARTS = (_FORMAT, _SCALE, ".weight_scale_2", ".input_scale", ".scale_weight", ".scale_input", "scaled_fp8")
_LONGEST = 4096  # bytes of a comfy_quant
_INSTEAD = "Use the bf16, fp16 or int8 convrot file"
_FP8 = "fp8 (e4m3 or e5m2)"
# format -> what it is, and why it is not read
_NOT_READ = {
    "float8_e4m3fn": (f"scaled {_FP8}", "its three bits lose small structures"),
    "float8_e5m2": (f"scaled {_FP8}", "its two bits lose small structures"),
    "convrot_w4a4": ("convrot_w4a4 (4 bits)", "it is made for one kind of GPU and loses too much in these networks"),
    "asym_w4a8_int8": ("asym_w4a8_int8 (4 bits)", "it needs ComfyUI's own layers"),
    "mxfp8": ("mxfp8", "it needs ComfyUI's own layers"),
    "nvfp4": ("nvfp4 (4 bits)", "it needs ComfyUI's own layers and one kind of GPU"),
}
_CAST = "a plain cast to it empties structures: objects come out with holes, or not at all"


@dataclass(frozen=True)
class Contents:
    """The tensors of a file by key, with the shapes that they have once unpacked.

    packings: of the quantised ones. refused: why a tensor cannot be used, in words, with the cure.
    """

    path: Path
    header: Header
    shapes: Mapping[str, tuple[int, ...]]
    packings: Mapping[str, Packing]
    refused: Mapping[str, str]
    names: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)  # key -> that in the file, and its third

    def stored_key(self, key: str) -> str:
        """A tensor's key in the file."""
        return self.names[key][0] if key in self.names else key

    def precision(self, keys: Collection[str]) -> str:
        """The number format that most of these tensors' values are in, e.g. "bf16", "int8", "Q4_K"."""
        sizes: dict[str, int] = {}
        for key in keys:
            packing = self.packings.get(key)
            name = packing.name if packing else self.header.dtypes[self.stored_key(key)].lower()
            sizes[name] = sizes.get(name, 0) + math.prod(self.shapes[key])
        return max(sizes, key=sizes.__getitem__, default="")

    def size(self, keys: Collection[str]) -> int:
        """Bytes of these tensors in the file."""
        spans = (self.header.spans[key] for key in {self.stored_key(key) for key in keys})
        return sum(end - begin for begin, end in spans)


def read_contents(path: Path) -> Contents:
    """What is in a safetensors or GGUF file; reads no weights.

    Raises:
        CheckpointError: the file is damaged.
    """
    header = read_gguf(path) if path.suffix.lower() == GGUF else read_header(path)
    if path.suffix.lower() == GGUF:
        packings = {key: BLOCKS[dtype] for key, dtype in header.dtypes.items() if dtype in BLOCKS}
        refused = {
            key: f"is {dtype}; read are {', '.join(BLOCKS)}, F16, BF16 and F32. Take the Q8_0 file"
            for key, dtype in header.dtypes.items()
            if dtype not in BLOCKS and dtype not in _PLAIN
        }
        return Contents(path, header, header.shapes, packings, refused)
    packings, refused = _quantised(path, header)
    shapes = {key: shape for key, shape in header.shapes.items() if not key.endswith(_PARTS)}
    if names := released_names(shapes):
        parts = {key: shapes[stored] for key, (stored, _) in names.items()}
        shapes = {key: parts[key] if third is None else _third(parts[key]) for key, (_, third) in names.items()}
    return Contents(path, header, shapes, packings, refused, names)


def _third(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] // 3, *shape[1:]) if shape else shape


def _quantised(path: Path, header: Header) -> tuple[dict[str, Packing], dict[str, str]]:
    """Packings and reasons against, by key."""
    packings: dict[str, Packing] = {}
    refused: dict[str, str] = {}
    known: dict[bytes, dict] = {}  # the same text stands at every layer
    formats = [key for key in header.shapes if key.endswith(_FORMAT)]
    if formats:
        with path.open("rb") as file:
            for key in formats:
                begin, end = header.spans[key]
                file.seek(begin)
                text = file.read(min(end - begin, _LONGEST))
                if text not in known:
                    known[text] = parse(path, text)
                layer = key.removesuffix(_FORMAT)
                answer = _packing(layer, known[text], header)
                if isinstance(answer, str):
                    refused[layer + _WEIGHT] = answer
                else:
                    packings[layer + _WEIGHT] = answer
    for key, dtype in header.dtypes.items():
        if dtype not in _PLAIN and key not in packings and key not in refused and not key.endswith(_PARTS):
            scaled = any(key.removesuffix(_WEIGHT) + part in header.shapes for part in (".scale_weight", _SCALE))
            if dtype.startswith("F8"):
                what, why = _NOT_READ["float8_e4m3fn"] if scaled else (f"plain {_FP8}", _CAST)
                refused[key] = f"is {what}, which is not read: {why}. {_INSTEAD}"
            else:
                lacks = f"{key.removesuffix(_WEIGHT)}{_FORMAT}, which says how to read it"
                refused[key] = f"is {dtype}, quantised, and the file lacks {lacks}. {_INSTEAD}"
    return packings, refused


def _packing(layer: str, settings: Mapping, header: Header) -> Packing | str:
    """How a layer's weight is stored, or why it cannot be read."""
    name = settings.get("format")
    weight, scale = layer + _WEIGHT, layer + _SCALE
    if name != "int8_tensorwise":
        what, why = _NOT_READ.get(str(name), (f"{str(name)!r:.60}", "its format is not known"))
        return f"is {what}, which is not read: {why}. {_INSTEAD}"
    if header.dtypes.get(weight) != "I8":
        return f"should be I8 and is {header.dtypes.get(weight, 'missing')}. Download the file again"
    if scale not in header.shapes:
        return f"lacks its factors {scale}: the file was not converted completely. Download it again"
    group = settings.get("convrot_groupsize", 256) if settings.get("convrot") else 0
    shape = header.shapes[weight]
    if type(group) is not int or not 0 <= group <= 4096 or (group and 4 ** round(math.log(group, 4)) != group):
        return f"is rotated in groups of {group!r:.20}, where powers of 4 are possible. Download the file again"
    packing = Int8(group)
    rows = shape[0] if shape else 0
    if not packing.fits(shape) or math.prod(header.shapes[scale]) not in (1, rows):
        return (
            f"has the shape {list(shape)} and factors {list(header.shapes[scale])}, which do not go together or with "
            f"groups of {group}. Download the file again"
        )
    return packing


class Tensors:
    """The tensors of a file, read one by one to a device."""

    def __init__(self, contents: Contents, get) -> None:
        self._contents, self._get = contents, get

    def stored(self, key: str) -> torch.Tensor:
        """As the file has it: for packed ones the packing's dtype and shape."""
        return self._get(key)

    def scale(self, key: str) -> torch.Tensor | None:
        """The factors [out, 1] fp32 of a packed weight, if it has any."""
        packing = self._contents.packings[key]
        if not packing.scaled:
            return None
        scale = self._get(key.removesuffix(_WEIGHT) + _SCALE).float().reshape(-1, 1)
        return scale.expand(self._contents.shapes[key][0], 1).contiguous()

    def dense(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        """The weight itself, in a dtype."""
        packing = self._contents.packings.get(key)
        name, third = self._contents.names.get(key, (key, None))
        stored = self._get(name)
        if third is not None:
            stored = stored.chunk(3)[third].contiguous()
        if packing is not None:
            stored = packing.unpack(stored, self.scale(key), dtype).reshape(self._contents.shapes[key])
        return stored.to(dtype)


@contextmanager
def open_tensors(contents: Contents, device: torch.device) -> Iterator[Tensors]:
    """Open a file to read weights from it.

    Raises:
        CheckpointError: it has changed since its header was read.
    """
    path = contents.path
    if path.suffix.lower() == GGUF:
        with path.open("rb") as file:
            yield Tensors(contents, lambda key: _from_gguf(contents, file, key).to(device))
        return
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            yield Tensors(contents, file.get_tensor)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}. {deleted(path)}.") from error


def _from_gguf(contents: Contents, file, key: str) -> torch.Tensor:
    begin, end = contents.header.spans[key]
    file.seek(begin)
    data = bytearray(end - begin)
    if file.readinto(data) != len(data):
        raise CheckpointError(f"{contents.path} is damaged or truncated. {deleted(contents.path)}.")
    shape, packing = contents.shapes[key], contents.packings.get(key)
    if packing is None:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[contents.header.dtypes[key]]
        return torch.frombuffer(data, dtype=dtype).reshape(shape)
    stored = torch.frombuffer(data, dtype=torch.uint8)
    return stored.reshape(packing.stored(shape)) if packing.fits(shape) else stored.reshape(1, -1)
