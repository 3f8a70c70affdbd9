"""A batch under fire: corrupt pictures, killed processes, a full disk, Ctrl-C; in the end no picture may be lost.

    python tests/chaos_batch.py FOLDER [--pictures 200]

makes that many different pictures in FOLDER, one in twenty of them corrupt, and objects of them with the bundled small
checkpoint: first on Ray, where a sampler and a finisher are killed by kill -9 and then the whole is interrupted by
Ctrl-C; then without Ray, until the disk is full (a small tmpfs, for which it must run as root; else this is left out);
then, with room again, to the end on Ray. It says what the manifest accounts for, and exits with 1 if a picture is lost,
a good one failed, a corrupt one did not, an object was made twice, a file is not whole or a temporary one is left.
"""

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from PIL import Image, ImageEnhance

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "assets" / "rocket.png", *sorted((ROOT / "assets" / "pictures").glob("*.png"))]
# few steps and small textures: what is tested is not what the objects look like
QUICK = ["--shells", "surface", "--faces", "2000", "--texture-size", "128"]
QUICK += ["--structure-steps", "2", "--shape-steps", "2", "--texture-steps", "2"]


def make_pictures(folder: Path, count: int) -> tuple[set[str], set[str]]:
    """Pictures of different colours, every twentieth cut off after a third of it; the names of good and of corrupt
    ones."""
    folder.mkdir(parents=True, exist_ok=True)
    good, corrupt = set(), set()
    for number in range(count):
        path = folder / f"{number:03}.png"
        with Image.open(SOURCES[number % len(SOURCES)]) as image:
            picture = image.convert("RGBA").resize((256, 256))
        alpha = picture.getchannel("A")
        hue, saturation, value = picture.convert("RGB").convert("HSV").split()
        hue = hue.point(lambda angle, turn=256 * number // count: (angle + turn) % 256)
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        picture = ImageEnhance.Brightness(picture).enhance(0.6 + 0.8 * number / count)
        picture.putalpha(alpha)
        picture.save(path)
        if number % 20 == 7:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        (corrupt if number % 20 == 7 else good).add(path.stem)
    return good, corrupt


def run(command: list, events: dict | None = None) -> tuple[int, str]:
    """Run a command from the root; after so many lines about objects call events.pop(lines)(process)."""
    print("$", *command, flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        **pipes,
    )
    said, objects = [], 0
    for line in process.stdout:
        said.append(line)
        objects += line.startswith("[") and "/" in line.split("]")[0]
        if events and objects in events:
            events.pop(objects)(process)
    code = process.wait()
    print("   ", "    ".join(said[-8:]), f"    exit code {code}", flush=True)
    assert not events, f"ended before {events}"
    return code, "".join(said)


def kill_one(kind: str):
    """kill -9 for an actor of the driver's."""

    def kill(process: subprocess.Popen) -> None:
        for each in psutil.Process(process.pid).children(recursive=True):
            try:
                if f"Map({kind})" in " ".join(each.cmdline()):
                    each.kill()
                    print(f"    kill -9 {each.pid} ({kind})", flush=True)
                    return
            except psutil.Error:
                continue
        raise AssertionError(f"no process of {kind}")

    return kill


def interrupt(process: subprocess.Popen) -> None:
    print("    Ctrl-C", flush=True)
    process.send_signal(signal.SIGINT)


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def is_whole(path: Path) -> bool:
    """Whether a GLB is as long as its header says."""
    data = path.read_bytes()
    return data[:4] == b"glTF" and struct.unpack("<I", data[8:12])[0] == len(data)


def verdict(output: Path, good: set[str], corrupt: set[str]) -> list[str]:
    """What is wrong in the end; nothing if all is well."""
    lines = [line for line in lines_of(output) if "object" in line]
    last = {line["object"]: line for line in lines}
    done = {name for name, line in last.items() if line["status"] == "done"}
    failed = {name for name, line in last.items() if line["status"] == "failed"}
    times = Counter(line["object"] for line in lines if line["status"] == "done")
    files = {path.stem for path in output.glob("*.glb")}
    problems = {
        "not in the manifest": (good | corrupt) - set(last),
        "good, and not done": good - done,
        "corrupt, and not failed": corrupt - failed,
        "done, and no file": done - files,
        "a file, and not done": files - done,
        "made twice": {name for name, count in times.items() if count > 1},
        "not whole": {path.name for path in output.glob("*.glb") if not is_whole(path)},
        "left behind": {path.name for path in output.iterdir() if path.name.startswith(".")},
    }
    tries = Counter(line.get("tries", 1) for line in lines if line["status"] != "waiting")
    lost, twice = (good | corrupt) - done - failed, problems["made twice"]
    print(
        f"{len(done)} done, {len(failed)} failed, {len(lost)} lost, {len(twice)} made twice of {len(good | corrupt)}; "
        f"objects by their tries: {dict(tries)}"
    )
    return [f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="default: 200")
    options = parser.parse_args()
    count, start = options.pictures, time.monotonic()
    pictures, output = options.folder / "in", options.folder / "out"
    good, corrupt = make_pictures(pictures, count)
    output.mkdir()
    small = os.name == "posix" and os.geteuid() == 0
    small = small and not subprocess.call(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(output)])
    job = ["batch", pictures, "--output", output, *QUICK]
    try:
        events = {1 + count // 20: kill_one("Sampler"), 1 + count // 10: kill_one("Finisher")}
        code, _ = run(["serving", *job, "--gpus", 0], {**events, 1 + count // 4: interrupt})
        assert code == 130, code
        if small:
            used = sum(path.stat().st_size for path in output.iterdir())
            room = used + used // 2 + (128 << 10)
            subprocess.check_call(["mount", "-o", f"remount,size={room}", str(output)])
            code, said = run(["pipeline", *job, "--device", "cpu"])
            assert code == 1 and "No space left on device" in said and "The batch stops here" in said
            subprocess.check_call(["mount", "-o", "remount,size=1g", str(output)])
        else:
            print("No full disk: only root may mount a small one.")
        code, _ = run(["serving", *job, "--gpus", 0])
        assert code == 1, code  # as corrupt pictures are among them
        wrong = verdict(output, good, corrupt)
    finally:
        if small:
            subprocess.call(["umount", str(output)])
    print("\n".join(wrong) or f"No picture is lost. {count} pictures in {time.monotonic() - start:.0f} s.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
