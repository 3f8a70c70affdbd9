"""The report: what is here of what is required and of what is optional, and the commands that bring the rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .comfyui import PACK, find_comfyui
from .commands import pip_install
from .machine import TORCH, Machine, canonical, look_at_machine, nvidia_driver
from .packages import OPTIONS, REFERENCE, Option, required_name
from .probe import ABSENT, BROKEN, USABLE, Found, probe

REQUIREMENTS = PACK / "requirements.txt"


@dataclass(frozen=True)
class Row:
    """One package in the report."""

    name: str
    state: str
    version: str = ""
    reason: str = ""  # why it is not usable, or does not fit
    use: str = ""
    command: tuple[str, ...] = ()  # what would install it; () if it is here or does not fit


@dataclass(frozen=True)
class Report:
    machine: Machine
    comfyui: Found  # with facts["folder"]
    required: tuple[Row, ...]
    fix: tuple[str, ...]  # the command that brings what is required
    optional: tuple[Row, ...]
    reference: tuple[Row, ...]


def make_report() -> Report:
    """Look at everything; the imports run side by side."""
    options = OPTIONS + REFERENCE
    with ThreadPoolExecutor(len(options) + 2) as pool:
        torch = pool.submit(probe, "torch", TORCH)
        driver = pool.submit(nvidia_driver)
        found = list(pool.map(lambda option: probe(option.imported, option.code, option.name), options))
    machine = look_at_machine(torch.result(), driver.result())
    rows = tuple(optional_row(option, seen, machine) for option, seen in zip(options, found))
    required = required_rows(machine)
    complete = all(row.state == USABLE for row in required)
    return Report(
        machine=machine,
        comfyui=find_comfyui(),
        required=required,
        fix=() if complete else pip_install("-r", str(REQUIREMENTS)),
        optional=rows[: len(OPTIONS)],
        reference=rows[len(OPTIONS) :],
    )


def optional_row(option: Option, found: Found, machine: Machine) -> Row:
    usable = found.state == USABLE
    needs = option.needs if usable else option.wheels + option.needs
    unmet = [need.why for need in needs if not need.met(machine)][:1]
    packages = () if usable or unmet else option.packages(machine)
    reason = "; ".join([found.reason] * bool(found.reason) + unmet)
    return Row(option.name, found.state, found.version, reason, option.use, pip_install(*packages) if packages else ())


def required_rows(machine: Machine) -> tuple[Row, ...]:
    """A row for every line of requirements.txt."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            Requirement = None
    rows = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        name = required_name(line)
        version = machine.installed.get(canonical(name), "")
        if Requirement is None:
            state, reason = (USABLE, "version not checked, as pip is missing") if version else (ABSENT, "")
        else:
            state, reason = _judge(Requirement(line), version)
        rows.append(Row(name, state, version, reason))
    return tuple(rows)


def _judge(wanted, version: str) -> tuple[str, str]:
    """State and reason of a requirement of which a version ("" for none) is installed."""
    if wanted.marker and not wanted.marker.evaluate() and not version:
        return USABLE, "no wheel for this Python and platform: the pack does that with code of its own"
    if not version:
        return ABSENT, f"needs {wanted.specifier}" if wanted.specifier else ""
    if not wanted.specifier.contains(version, prereleases=True):
        return BROKEN, f"does not fit, needs {wanted.specifier}"
    return USABLE, ""
