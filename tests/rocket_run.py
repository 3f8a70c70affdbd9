"""The README's first command with every output, which tests of the command line and of what comes after it look at."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

PICTURE = Path(__file__).resolve().parent.parent / "assets" / "rocket.png"
SEED, TEXTURE_SIZE = 42, 1024
OPTIONS = ("--texture-size", str(TEXTURE_SIZE), "--device", "cpu")


def make(folder: Path) -> None:
    """rocket.glb, rocket.safetensors (the state), rocket.json (the report) and rocket.txt (what a user reads)."""
    from pipeline.__main__ import main

    outputs = {"--output": "rocket.glb", "--save-state": "rocket.safetensors", "--report": "rocket.json"}
    options = [text for option, name in outputs.items() for text in (option, str(folder / name))]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["generate", str(PICTURE), *options, *OPTIONS])
    assert code == 0, err.getvalue()
    (folder / "rocket.txt").write_text(out.getvalue(), encoding="utf-8")
