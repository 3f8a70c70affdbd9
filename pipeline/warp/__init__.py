"""NVIDIA Warp: whether it is here (availability), and how its kernels are launched (launch, which imports it)."""

from .availability import DEVICES, cores, missing, unavailable_reason

__all__ = ["DEVICES", "cores", "missing", "unavailable_reason"]
