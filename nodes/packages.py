"""Inputs that choose an installed package as the backend of a step, in place of the pack's own."""

from __future__ import annotations

from comfy_api.latest import io

from .sockets import advanced

AUTO = "auto"


def package_input(name: str, package: str, tooltip: str) -> io.Input:
    """The choice of a package's row of the backend table; auto leaves it to the table."""
    return advanced(
        io.Combo.Input(name, options=[AUTO, package], default=AUTO, optional=True, tooltip=tooltip),
    )


def choices(**chosen: str) -> dict[str, str]:
    """{operation: row} of those that are not left to the table."""
    return {op: package for op, package in chosen.items() if package != AUTO}
