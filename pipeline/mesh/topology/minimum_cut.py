"""The minimum cut of a graph, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_MOST = 2**30  # of a capacity; scipy adds flows as int32


def source_side(
    tail: torch.Tensor, head: torch.Tensor, capacity: torch.Tensor, source: torch.Tensor, sink: torch.Tensor
) -> torch.Tensor:
    """Which nodes lie on the source's side of the cheapest cut; of equally cheap ones the fewest nodes.

    Args:
        tail, head, capacity: [E] integers: cutting so that tail is on the source's side and head is not costs capacity;
            those of repeated pairs are added.
        source, sink: [N] integers, at least 0: costs of a node that is not on the source's, or the sink's, side.

    Returns:
        [N] bool.
    """
    inside = _cut(*(each.cpu().numpy() for each in (tail, head, capacity, source, sink)))
    return torch.from_numpy(inside).to(source.device)


def _cut(tail: np.ndarray, head: np.ndarray, capacity: np.ndarray, source: np.ndarray, sink: np.ndarray) -> np.ndarray:
    count = len(source)
    first, last = count, count + 1
    both = np.minimum(source, sink)  # is paid in any case
    source, sink = source - both, sink - both
    from_source, to_sink = source.nonzero()[0], sink.nonzero()[0]
    tails = np.concatenate([tail, np.full(len(from_source), first), to_sink])
    heads = np.concatenate([head, from_source, np.full(len(to_sink), last)])
    capacities = np.concatenate([capacity, source[from_source], sink[to_sink]])
    shape = (count + 2, count + 2)
    graph = csr_matrix(coo_matrix((capacities.clip(0, _MOST).astype(np.int32), (tails, heads)), shape=shape))
    rest = graph - maximum_flow(graph, first, last).flow
    rest.data[rest.data < 0] = 0
    rest.eliminate_zeros()
    inside = np.zeros(count + 2, bool)
    inside[breadth_first_order(rest, first, return_predecessors=False)] = True
    return inside[:count]
