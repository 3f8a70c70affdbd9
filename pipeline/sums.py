"""Deterministic sums by group: the same bits every time, also on a GPU, where additions happen in varying order."""

from __future__ import annotations

from math import prod

import torch

_LANES, _PLACES = 256, 1 << 20  # partial sums on a GPU: of one group, and of all groups together
_WHOLE_BITS = 62  # of an integer, without its sign and one spare bit


def sum_by(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """Sums of rows: values [N, ...] of groups [N] int64 -> [groups, ...] of their dtype.

    On a CUDA device those of floating point come from WholeSums. A value that is not finite stays in its group.
    """
    if not values.is_cuda or not values.is_floating_point():
        return values.new_zeros(groups, *values.shape[1:]).index_add_(0, group, values)
    return whole_sum_by(values, group, groups)


def whole_sum_by(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """sum_by on any device by WholeSums."""
    flat = values.reshape(len(values), prod(values.shape[1:])).double()
    sums = WholeSums(groups, len(flat), largest_of(flat))
    sums.add(group, flat)
    return sums.total().reshape(groups, *values.shape[1:]).to(values.dtype)


def running_sums(values: torch.Tensor) -> torch.Tensor:
    """[N] sums of the first 1, 2, .. of N values; on a CUDA device float64, correct to 2^-60 N of the largest value."""
    if not values.is_cuda or not values.is_floating_point():
        return values.cumsum(0)
    return whole_running_sums(values)


def whole_running_sums(values: torch.Tensor) -> torch.Tensor:
    """running_sums on any device by whole numbers."""
    values, odd = _parted(values.double())
    unit = _unit(largest_of(values), _bits(len(values)))
    sums = (values / unit).round().long().cumsum(0) * unit
    return sums if odd is None else sums + odd.cumsum(0)


class PlainSums:
    """As WholeSums, added in the given order, which is deterministic on a CPU."""

    def __init__(self, groups: int, largest: torch.Tensor) -> None:
        self._total = largest.new_zeros(groups, *largest.shape)

    def add(self, group: torch.Tensor, values: torch.Tensor) -> None:
        self._total.index_add_(0, group, values)

    def total(self) -> torch.Tensor:
        return self._total


class WholeSums:
    """Sums of float64 rows by group, added up as whole numbers.

    A value is split into multiples of a power of two and of a fraction of it, so many bits each that no sum overflows;
    a group's sum is spread over lanes, since additions to one place wait for each other.

    Args:
        groups: how many there are.
        count: rows that are added at most, in all.
        largest: [C] float64, finite, that no finite absolute value of a column exceeds; [] for rows that are numbers.
        lanes: of each group; None: as suits a GPU.
    """

    def __init__(self, groups: int, count: int, largest: torch.Tensor, lanes: int | None = None) -> None:
        self._lanes = lanes_of(groups) if lanes is None else lanes
        self._bits, self._odd = _bits(count), None
        self._unit = _unit(largest, self._bits)
        shape = (groups * self._lanes, *largest.shape)
        self._whole, self._part = torch.zeros(2, *shape, dtype=torch.int64, device=largest.device)

    def add(self, group: torch.Tensor, values: torch.Tensor) -> None:
        """group: [N] int64. values: [N] or [N, C] float64."""
        place = group * self._lanes
        place += torch.arange(len(place), device=place.device) % self._lanes
        values, odd = _parted(values)
        if odd is not None:
            if self._odd is None:
                self._odd = odd.new_zeros(len(self._whole) // self._lanes, *odd.shape[1:])
            self._odd.index_add_(0, group, odd)
        values = values / self._unit
        multiple = values.trunc()
        self._whole.index_add_(0, place, multiple.long())
        self._part.index_add_(0, place, values.sub_(multiple).mul_(2.0**self._bits).long())

    def total(self) -> torch.Tensor:
        """[groups] or [groups, C] float64."""
        whole, part = (
            each.unflatten(0, (-1, self._lanes)).sum(1).double() if len(each) else each.double()
            for each in (self._whole, self._part)
        )
        sums = (whole + part * 2.0**-self._bits) * self._unit
        return sums if self._odd is None else sums + self._odd


def grouped_sums(groups: int, count: int, largest: torch.Tensor) -> PlainSums | WholeSums:
    """Sums of rows that come in pieces, on the device of `largest`; see WholeSums."""
    return WholeSums(groups, count, largest) if largest.is_cuda else PlainSums(groups, largest)


def lanes_of(groups: int) -> int:
    """Places for each group's sum: most rows are of one group, if there are several at all."""
    return max(1, min(_LANES, _PLACES // max(groups, 1)))


def _bits(count: int) -> int:
    """Of each value's parts, of which `count` are added up."""
    return _WHOLE_BITS - max(count, 1).bit_length()


def largest_of(values: torch.Tensor) -> torch.Tensor:
    """The largest finite absolute value of each column, 0 without any."""
    return values.abs().nan_to_num_(0.0, 0.0).amax(0) if len(values) else values.new_zeros(values.shape[1:])


def _parted(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values, 0 for those that are not finite, and these among zeros (whose sums are the same in any order, too), None
    if there are none."""
    finite = values.isfinite()
    if finite.all():
        return values, None
    return torch.where(finite, values, 0), torch.where(finite, 0, values)


def _unit(largest: torch.Tensor, bits: int) -> torch.Tensor:
    """The power of two of which no value has more than 2^bits."""
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - bits)
