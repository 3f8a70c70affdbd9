"""How quantised files store the weights of a layer, and the numbers that come of it.

int8 with rotation is ComfyUI's int8_tensorwise format with convrot, the block formats are those of GGUF
(https://github.com/ggml-org/ggml, ggml-quants.c). Weights stay as they are stored and are unpacked when a layer runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

_HALF = 16  # values of a sub-block of Q6_K


@dataclass(frozen=True)
class Int8:
    """int8 [out, in] and a factor for each row; rotated: in groups of `group` columns by a Hadamard matrix, 0: not."""

    group: int = 0

    name = "int8"
    dtype = torch.int8
    scaled = True  # has a second tensor, the factors

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the stored tensor for a weight of that shape."""
        return shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of that shape can be stored so."""
        return len(shape) == 2 and (not self.group or shape[1] % self.group == 0)

    def unpack(self, weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """[out, in] in dtype. weight: int8 [out, in]; scale: fp32 [out, 1].

        Sums of up to `group` int8 values are whole numbers, which fp16 products with an fp32 accumulator give to
        5e-4 of their size; so a GPU rotates in fp16 and only the result is rounded to dtype.
        """
        if scale is None:
            raise TypeError("int8 weights have a factor for each row.")
        scale = scale.to(weight.device)
        if not self.group:
            return (weight.float() * scale).to(dtype)
        on_gpu = weight.device.type == "cuda" and dtype != torch.float32
        matrix = signs(self.group, weight.device, torch.float16 if on_gpu else torch.float32)
        rotated = weight.to(matrix.dtype).unflatten(1, (-1, self.group)) @ matrix  # [out, in / group, group]
        return (rotated.flatten(1).float() * (scale / self.group**0.5)).to(dtype)

    def pack(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The int8 numbers and the factors [out, 1] of a weight [out, in]."""
        rotated = weight.float()
        if self.group:
            matrix = signs(self.group, weight.device, torch.float32) / self.group**0.5
            rotated = (rotated.unflatten(1, (-1, self.group)) @ matrix).flatten(1)
        scale = rotated.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        return (rotated / scale).round().to(torch.int8), scale


@cache
def signs(group: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The Hadamard matrix of a group, a power of 4: [group, group] of 1 and -1, symmetric; its square is group * I."""
    quarter = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = torch.ones(1, 1)
    while len(matrix) < group:
        matrix = torch.kron(matrix, quarter)
    return matrix.to(device, dtype)


@dataclass(frozen=True)
class Blocks:
    """One of GGUF's formats: rows of blocks, each of `count` values in `size` bytes."""

    name: str
    count: int
    size: int

    dtype = torch.uint8
    scaled = False

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the stored tensor for a weight of that shape."""
        return (*shape[:-1], shape[-1] // self.count * self.size)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of that shape can be stored so."""
        return len(shape) > 0 and shape[-1] % self.count == 0

    def unpack(self, weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """[..., in] in dtype. weight: uint8 [..., bytes of a row]; scale: None."""
        values = _UNPACK[self.name](weight.reshape(-1, self.size))  # [blocks, count] fp32
        return values.reshape(*weight.shape[:-1], -1).to(dtype)


def _half(two: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 2] -> fp32 [N, 1]."""
    return two.contiguous().view(torch.float16).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks[:, :2]) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _scales_of_k(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The 6-bit factors and minima of eight sub-blocks, uint8 [N, 12] -> two [N, 8]."""
    low, middle, high = packed.split(4, 1)
    factors = torch.cat([low & 63, (high & 15) | (low >> 6) << 4], 1)
    minima = torch.cat([middle & 63, high >> 4 | (middle >> 6) << 4], 1)
    return factors.float(), minima.float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 128] -> [N, 8, 32]: of every 32 bytes the low halves, then the high ones."""
    packed = packed.unflatten(1, (4, 1, 32))
    return torch.cat([packed & 15, packed >> 4], 2).flatten(1, 2)


def _affine(blocks: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[N, 8, 32] whole numbers -> [N, 256] by the factors and minima that a block of Q4_K or Q5_K begins with."""
    factors, minima = _scales_of_k(blocks[:, 4:16])
    factors, minima = _half(blocks[:, :2]) * factors, _half(blocks[:, 2:4]) * minima
    return (factors[..., None] * values.float() - minima[..., None]).flatten(1)


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    return _affine(blocks, _nibbles(blocks[:, 16:]))


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    place = torch.arange(8, device=blocks.device, dtype=torch.uint8)[:, None]
    high = blocks[:, None, 16:48] >> place & 1  # [N, 8, 32]
    return _affine(blocks, _nibbles(blocks[:, 48:]) | high << 4)


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    low = blocks[:, :128].unflatten(1, (2, 1, 64))
    low = torch.cat([low & 15, low >> 4], 2).unflatten(3, (2, 32)).flatten(2, 3)  # [N, 2, 4, 32]
    place = torch.arange(0, 8, 2, device=blocks.device, dtype=torch.uint8)[:, None]
    high = blocks[:, 128:192].unflatten(1, (2, 1, 32)) >> place & 3
    values = (low | high << 4).flatten(1).float() - 32
    factors = _half(blocks[:, 208:210]) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (values.unflatten(1, (-1, _HALF)) * factors[..., None]).flatten(1)


_UNPACK = {"Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
BLOCKS = {each.name: each for each in (Blocks("Q8_0", 32, 34), Blocks("Q4_K", 256, 144), Blocks("Q5_K", 256, 176))}
BLOCKS["Q6_K"] = Blocks("Q6_K", 256, 210)

Packing = Int8 | Blocks
