"""Packed sparse tensors and the operations on them: neighbour maps, convolution, attention, look-up."""

from .operations import ADD_TO_CHILDREN, ATTENTION, CHILD_CONV, OPERATIONS, SUBMANIFOLD_CONV, TRILINEAR
from .resample import Subdivision, space_to_channel, subdivide
from .tensor import NeighbourMap, SparseTensor, Voxels

__all__ = [
    "ADD_TO_CHILDREN",
    "ATTENTION",
    "CHILD_CONV",
    "OPERATIONS",
    "SUBMANIFOLD_CONV",
    "TRILINEAR",
    "NeighbourMap",
    "SparseTensor",
    "Subdivision",
    "Voxels",
    "space_to_channel",
    "subdivide",
]
