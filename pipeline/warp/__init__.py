"""NVIDIA Warp: whether it is here, and how its kernels are launched."""
