"""Keys of the gateway: made here, shown once, kept as hashes only. The gateway reads the file for every request.

python deploy/gateway_keys.py FILE add NAME            a new key for NAME, valid at once beside those it has
python deploy/gateway_keys.py FILE list                names and hashes
python deploy/gateway_keys.py FILE remove NAME [HASH]  the key of NAME whose hash begins so, or all of them
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9._-]+")  # it goes into the log and into a header


def read(file: Path) -> list[tuple[str, str]]:
    """(SHA-256 as hexadecimal digits, name) of each key; none where there is no file yet."""
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [" ".join(words) for words in lines if len(words) != 2 or not re.fullmatch(r"[0-9a-f]{64}", words[0])]
    if wrong:
        raise SystemExit(f"{file} holds {wrong[0]!r}, which is not a hash and a name. Remove it, or name another file.")
    return [(words[0], words[1]) for words in lines]


def write(file: Path, keys: list[tuple[str, str]]) -> None:
    """In one step, so that no request meets half a file; readable for the gateway's user, since hashes open nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".keys")
    with os.fdopen(descriptor, "w", encoding="utf-8") as whole:
        whole.writelines(f"{digest} {owner}\n" for digest, owner in keys)
    os.chmod(name, 0o644)
    os.replace(name, file)


def add(file: Path, name: str) -> str:
    """Make a key of 256 random bits, keep its hash, and return it: it cannot be shown again."""
    if not NAME.fullmatch(name):
        raise SystemExit(f"{name!r} is no name of a key: letters, digits, '.', '_' and '-' are.")
    key = secrets.token_urlsafe(32)
    write(file, [*read(file), (hashlib.sha256(key.encode()).hexdigest(), name)])
    return key


def remove(file: Path, name: str, digest: str = "") -> int:
    """Take keys of a name away: the one whose hash begins with `digest`, or all. Returns how many there were."""
    keys = read(file)
    kept = [key for key in keys if not (key[1] == name and key[0].startswith(digest))]
    if len(kept) == len(keys):
        raise SystemExit(f"No key of {name!r} has a hash that begins with {digest!r}; `list` shows all.")
    write(file, kept)
    return len(keys) - len(kept)


def main(words: list[str] | None = None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add").add_argument("name")
    commands.add_parser("list")
    removing = commands.add_parser("remove")
    removing.add_argument("name")
    removing.add_argument("hash", nargs="?", default="")
    options = parser.parse_args(words)
    if options.command == "add":
        print(add(options.file, options.name))
        print("Keep it now: only its hash is in the file.", file=sys.stderr)
    elif options.command == "list":
        for digest, name in read(options.file):
            print(name, digest)
    else:
        print(f"{remove(options.file, options.name, options.hash)} removed", file=sys.stderr)


if __name__ == "__main__":
    main()
