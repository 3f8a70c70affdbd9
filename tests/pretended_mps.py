"""An Apple GPU that is not there: tensors in main memory that say they are on MPS and refuse what MPS refuses.

Results are those of the CPU. What is checked is what code for a CPU gets wrong on such a GPU: values of float64,
tensors of two devices in one operation, numpy arrays of its tensors, and operations without a Metal kernel.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchgen
import yaml
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_MPS = torch.device("mps", 0)
_REFUSED = (torch.float64, torch.complex128)
_EVERYWHERE = {"CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}
# what attention becomes on a CPU; on MPS it is _scaled_dot_product_attention_math_for_mps
_OF_THE_CPU = {"_scaled_dot_product_flash_attention_for_cpu"}
_VALUES = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__len__"}
_INDEXING = {"__getitem__", "__setitem__"}  # which takes indices of the CPU, too


class OnMps(torch.Tensor):
    """A tensor that is on the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # the mode does all


def _is_there(value) -> bool:
    return isinstance(value, OnMps) or (isinstance(value, torch.Tensor) and "_on_mps" in vars(value))


def _means_there(device) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "mps"


def _plain(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, OnMps) else value


def _there(value):
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype in _REFUSED:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return value.as_subclass(OnMps)


class PretendedMps(TorchFunctionMode):
    """Moves, makes and marks tensors of the device; counts the operations on them in `operations`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()  # "name.overload" -> calls
        self.depth = 0  # of calls that work on the device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", str(func)), dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        here = any(map(_is_there, tensors))
        if func == torch.Tensor.device.__get__:
            return _MPS if here else func(*args)
        if here and name in ("numpy", "__array__"):
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        if name in ("to", "cpu"):
            return self._moved(name, args, kwargs)
        if name == "__set__" and here:  # parameter.data, whose own type stays
            vars(args[0])["_on_mps"] = True
        given = kwargs.get("device")
        if given is not None:
            here = _means_there(given)
            kwargs["device"] = "cpu" if here else given
        elif here and name != "__set__" and not name.startswith("_has_"):
            self._require_one_device(name, tensors)
        self.depth += here
        try:
            result = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        finally:
            self.depth -= here
        if name == "__iter__":
            result = iter([_there(each) if here else each for each in result])
        elif name.endswith("_") and not name.endswith("__") and args:
            return args[0]  # in place
        elif kwargs.get("out") is not None:
            return kwargs["out"]
        elif here and name not in _VALUES and any(isinstance(each, torch.Tensor) for each in tree_leaves(result)):
            return tree_map(_there, result)
        return result

    @staticmethod
    def _moved(name: str, args: tuple, kwargs: dict):
        """Tensor.to and Tensor.cpu, which alone lead from one device to another."""
        source, *rest = args
        device = kwargs.pop("device", None) if name == "to" else "cpu"
        for each in rest:
            if isinstance(each, (str, torch.device)):
                device = each
            elif isinstance(each, torch.Tensor):
                device, kwargs["dtype"] = each.device, each.dtype
            elif isinstance(each, torch.dtype):
                kwargs["dtype"] = each
        kwargs.pop("non_blocking", None)
        there = _is_there(source) if device is None else _means_there(device)
        if there != _is_there(source):
            kwargs["copy"] = True
        if device is not None:
            kwargs["device"] = "cpu" if there else device
        made = _plain(source).to(**kwargs) if kwargs else source
        return _there(made) if there else made

    @staticmethod
    def _require_one_device(name: str, tensors: list[torch.Tensor]) -> None:
        others = [each for each in tensors if each.dim() and not _is_there(each)]  # numbers may be anywhere
        if name in _INDEXING:
            others = [each for each in others if each.dtype.is_floating_point]
        if others:
            shapes = [(tuple(each.shape), "mps" if _is_there(each) else "cpu") for each in tensors]
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {shapes}")

    def without_kernel(self) -> set[str]:
        """Operations that were called on the device and that torch has no Metal kernel for."""
        entries = _operations()
        return {name for name in self.operations if not _has_kernel(name, entries)}


class _Counted(TorchDispatchMode):
    def __init__(self, mps: PretendedMps) -> None:
        super().__init__()
        self._mps = mps

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._mps.depth:
            name, overload = func._schema.name.removeprefix("aten::"), func._overloadname
            self._mps.operations[name if overload == "default" else f"{name}.{overload}"] += 1
        return func(*args, **(kwargs or {}))


def _operations() -> dict[str, dict]:
    """torch's operations by name, as the list that torch is built from has them."""
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in yaml.load(path.read_text(), loader)}


def _has_kernel(name: str, entries: dict[str, dict]) -> bool:
    entry = entries.get(name)
    if entry is None:
        return False
    shared = entries[entry["structured_delegate"]] if "structured_delegate" in entry else entry
    keys = {key.strip() for table in (entry, shared) for keys in table.get("dispatch", ()) for key in keys.split(",")}
    return name in _OF_THE_CPU or not keys or "MPS" in keys or bool(keys & _EVERYWHERE)


@contextmanager
def pretended_mps():
    """Within the block there is an Apple GPU of 8 GB."""
    mps = PretendedMps()
    replaced = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(torch.mps, "recommended_max_memory", lambda: 8 << 30)
        for name in ("current_allocated_memory", "driver_allocated_memory"):
            patch.setattr(torch.mps, name, lambda: 1 << 20)
        for name in ("synchronize", "empty_cache"):
            patch.setattr(torch.mps, name, lambda: None)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's type says where it is
        try:
            with mps, _Counted(mps):
                yield mps
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(replaced)
