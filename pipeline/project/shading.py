"""The light in a picture as second-order spherical harmonics of the normal, from what the object's own colours leave
unexplained (Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", 2001)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..srgb import tensor_to_linear, tensor_to_srgb

_RIDGE = 1e-3  # of the samples, towards light from everywhere: a picture shows only normals that look at it
_ROUNDS = 4  # of reweighting: highlights and wrong colours must not decide
_SPREAD = 0.1  # linear light; what differs more counts less
_LEAST, _MOST = 0.25, 4.0  # times the mean light; beyond it a division would only raise noise


@dataclass(frozen=True)
class Shading:
    """Light by normal, grey: linear light that reaches a surface, 1 where it shows its own colour. coefficients: [9]
    float64 of harmonics() in the world's frame. mean: over what was seen."""

    coefficients: torch.Tensor
    mean: float

    def light(self, normals: torch.Tensor) -> torch.Tensor:
        """[N] float32 on surfaces of unit normals [N, 3]."""
        found = harmonics(normals) @ self.coefficients.to(normals.device).float()
        return found.clamp(_LEAST * self.mean, _MOST * self.mean)

    def on(self, colours: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """[N, 3] sRGB colours of surfaces in this light; own colours [N, 3] sRGB 0-1."""
        return tensor_to_srgb((tensor_to_linear(colours) * self.light(normals)[:, None]).clamp(0, 1))

    def removed(self, colours: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """[N, 3] sRGB colours of a picture, 0-1, without the light."""
        return tensor_to_srgb((tensor_to_linear(colours) / self.light(normals)[:, None]).clamp(0, 1))


def estimated(picture: torch.Tensor, own: torch.Tensor, normals: torch.Tensor, rounds: int = _ROUNDS) -> Shading:
    """The light that makes an object's own colours a picture's.

    Args:
        picture, own: [N, 3] sRGB 0-1 of the same places: as the picture shows them, and without light. normals: [N, 3].
        rounds: of reweighting.
    """
    seen, given = tensor_to_linear(picture.double()), tensor_to_linear(own.double())
    basis = harmonics(normals.double())  # [N, 9]
    strength = given.square().sum(1)  # of the equation basis @ c * given = seen, all three channels together
    wanted = (given * seen).sum(1)
    trust = torch.ones_like(strength)
    solution = basis.new_zeros(9)
    ridge = _RIDGE * strength.sum() * torch.eye(9, dtype=torch.float64, device=basis.device)
    ridge[0, 0] *= 1e-3
    for _ in range(rounds):
        weighted = basis * (trust * strength)[:, None]
        solution = torch.linalg.solve(weighted.T @ basis + ridge, basis.T @ (trust * wanted))
        left = (given * (basis @ solution)[:, None] - seen).norm(dim=1)
        trust = 1 / (1 + (left / _SPREAD) ** 2)
    light = (basis @ solution).clamp_min(0)
    mean = max(float(light.mean()), 1e-6)
    return Shading(solution, mean)


def explained(shading: Shading, picture: torch.Tensor, own: torch.Tensor, normals: torch.Tensor) -> float:
    """The share of a picture's differences (of squares, linear light) from an object's own colours in one brightness
    that a light by normal explains: 1 all, 0 none; below 0 it makes them larger. Arguments otherwise as estimated."""
    seen, given = tensor_to_linear(picture), tensor_to_linear(own)
    plain = (given * seen).sum() / given.square().sum().clamp_min(1e-9)
    left, whole = ((each * given - seen).square().sum() for each in (shading.light(normals)[:, None], plain))
    return 1 - float(left / whole.clamp_min(1e-9))


def harmonics(normals: torch.Tensor) -> torch.Tensor:
    """[N, 9]: 1, y, z, x, xy, yz, 3zz - 1, xz, xx - yy."""
    x, y, z = normals.unbind(1)
    return torch.stack([torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)
