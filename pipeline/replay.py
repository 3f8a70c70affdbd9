"""A function of tensors recorded once as a CUDA graph, for networks whose launches take longer than their work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


class Replayed:
    """Calls a function twice as it is (kernels are compiled and chosen then) and records the third call.

    Args:
        function: of CUDA tensors whose shapes never change; it reads nothing else that changes, does not ask the
            device anything, and returns one tensor.

    Where recording fails, the function goes on being called as it is.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        if self._calls == 3:
            self._record(inputs)
        if self._graph is None:
            return self._function(*inputs)
        for own, given in zip(self._inputs, inputs):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        random = torch.cuda.default_generators[inputs[0].device.index or 0]
        before = random.clone_state()
        try:
            # thread_local: other threads of a host may use the device meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._output = self._function(*self._inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:  # ValueError: Triton, of memory that a recording has only promised
            random.graphsafe_set_state(before)  # torch leaves it unusable outside a recording
            log.info("A network's work is not recorded as a CUDA graph: %s", str(error).splitlines()[0])
            return
        self._graph = graph
