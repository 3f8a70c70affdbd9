"""Reports what this Python, torch, GPU and ComfyUI offer the pack, and installs optional packages on request.

    python install.py                     report only
    python install.py --install rembg     run the pip command that the report shows for it
    python install.py --json              the same facts as JSON

Nothing is ever compiled (pip gets wheels only), torch is never exchanged, and an optional package that is
absent, broken or cannot be installed is one line of the report: the exit code stays 0.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict

_PACK = os.path.dirname(os.path.abspath(__file__))
# an embedded Python, as ComfyUI's for Windows, does not look beside the script
sys.path.insert(0, _PACK)
from installation.commands import pip_error, shown  # noqa: E402
from installation.packages import OPTIONS, SOURCE_ONLY, Option  # noqa: E402
from installation.probe import probe  # noqa: E402
from installation.report import Row, make_report  # noqa: E402
from installation.text import as_lines, aside  # noqa: E402

sys.path.remove(_PACK)  # where this file is imported, nodes/ would shadow ComfyUI's nodes.py


def install(row: Row, option: Option, log) -> Row:
    """Run the command of a row, whose output goes to `log`; returns the row as it is afterwards."""
    if not row.command:
        return row
    print(f"\n> {shown(row.command)}", file=log, flush=True)
    try:
        ended = subprocess.run(row.command, stdout=log, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    except OSError as error:
        return Row(row.name, row.state, reason=f"pip could not be started: {error}", use=row.use)
    if ended.returncode != 0:
        return Row(row.name, row.state, reason=f"pip failed: {pip_error(ended.stderr)}", use=row.use)
    found = probe(option.imported, option.code, option.name)
    return Row(row.name, found.state, found.version, found.reason, row.use)


def main(arguments: list[str] | None = None) -> int:
    installable = [option for option in OPTIONS if SOURCE_ONLY not in option.wheels]
    names = [option.name for option in installable]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--install", nargs="+", default=[], choices=[*names, "all"], metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    parser.epilog = f"NAME is {', '.join(names)}, or all for everything that fits this machine."
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter of a path is no reason to fail
            stream.reconfigure(errors="replace")

    report = make_report()
    log = sys.stderr if options.json else sys.stdout
    if not options.json:
        print("\n".join(as_lines(report)), flush=True)
    rows = {row.name: row for row in report.optional}
    wanted = [option for option in installable if {option.name, "all"} & set(options.install)]
    after = [install(rows[option.name], option, log) for option in wanted]
    if options.json:
        facts = asdict(report)
        del facts["machine"]["installed"]
        for row in (*facts["required"], *facts["optional"], *facts["reference"]):
            row["command"] = shown(row["command"])
        print(json.dumps({**facts, "fix": shown(report.fix), "installed": [asdict(row) for row in after]}, indent=2))
    elif after:
        print()
        for row in after:
            print(f"{row.name}: {row.state}{' ' * bool(row.version)}{row.version}{aside(row.reason)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
