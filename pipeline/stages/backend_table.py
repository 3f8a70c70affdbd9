"""The backend table of the whole pipeline: the operations of every folder in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .. import mesh, render, sparse
from ..backends import Backend, Backends
from ..models import operations as network_operations


def default_backends(
    choices: dict[str, str] | None = None, more: Mapping[str, Sequence[Backend]] | None = None
) -> Backends:
    """The backend table of the whole pipeline.

    Args:
        choices: as for Backends.
        more: further rows by operation, which run only where they are chosen.
    """
    operations = (*sparse.OPERATIONS, *network_operations.OPERATIONS, *mesh.OPERATIONS, *render.OPERATIONS)
    more = more or {}
    return Backends((replace(op, rows=(*op.rows, *more.get(op.name, ()))) for op in operations), choices)
