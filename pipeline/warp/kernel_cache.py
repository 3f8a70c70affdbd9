"""Warp's cache of compiled kernels, made so that it cannot stop a run.

Warp trusts what lies in its cache, and dies where it cannot write there (LLVM ends the process on a full disk). Hence,
whoever asks for a module: what is damaged is compiled anew; where the cache cannot be written, has no room or cannot
even be made (no home folder), a temporary one takes its place, with one line in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import warp as wp

from ..errors import BackendError
from ..temporary import temporary_folder

log = logging.getLogger(__name__)

_ROOM = 8 << 20  # bytes that must fit beside what is there; the largest module takes 0.5 MB
_SEAL = ".trellis2"  # suffix of the file that lists what was compiled, with the digest of each file
_ABANDONED = 3600.0  # seconds after which a folder in which nothing was compiled is nobody's
_moving = threading.Lock()  # the cache to a temporary folder


def initialise() -> None:
    """wp.init(), also where Warp cannot make the folder of its cache."""
    try:
        wp.init()
    except OSError as error:
        _use_temporary(error)
        wp.init()


def guard(module: wp.Module) -> None:
    """Make sure that a module can be loaded: by a launch or by wp.load_module, which both call module.load.

    Its load may then raise BackendError: it can be compiled nowhere.
    """
    load, loaded, loading = module.load, set(), threading.RLock()  # modules are compiled beside each other

    def guarded(device, block_dim: int | None = None, **more):
        key = (str(device), block_dim)
        if key in loaded:
            return load(device, block_dim, **more)
        with loading:
            result = _loaded(module, lambda: load(device, block_dim, **more), *key)
            loaded.add(key)
        return result

    setattr(module, "load", guarded)  # noqa: B010 - another signature, which callers by position and name both suit


def _loaded(module: wp.Module, load: Callable, device: str, block_dim: int | None):
    usual, reason = str(wp.config.kernel_cache_dir), None
    for _ in range(2):  # again, as another process may be at work in the same place
        try:
            return _checked(module, load, device, block_dim)
        except BaseException as error:
            if not _is_trouble(error):
                raise
            reason = error
            module.mark_modified()  # else Warp only repeats the error
    with _moving:
        if wp.config.kernel_cache_dir == usual:  # else another thread has met the same trouble
            _use_temporary(reason)
    try:
        return _checked(module, load, device, block_dim)
    except BaseException as error:
        if not _is_trouble(error):
            raise
        raise _nowhere(usual, error) from error


def _is_trouble(error: BaseException) -> bool:
    """Whether an error is one of reading or writing: Warp raises plain Exceptions for a failed build or load."""
    return isinstance(error, (OSError, ValueError)) or type(error) is Exception


def _checked(module: wp.Module, load: Callable, device: str, block_dim: int | None):
    """Load a module from the cache if it lies there as it was written, else compile it."""
    folder = Path(str(wp.config.kernel_cache_dir), module.get_module_identifier(block_dim))
    seal = folder / (device.replace(":", "-") + _SEAL)
    if seal in _intact(folder):
        return load()
    _clear(folder)
    _say_once()
    try:
        result = load()
    finally:
        for unfinished in folder.parent.glob(f"{folder.name}_p{os.getpid()}_t*"):
            shutil.rmtree(unfinished, ignore_errors=True)
    with suppress(OSError):  # without a seal it is compiled again next time
        _write_seal(folder, seal)
    return result


@cache
def _say_once() -> None:
    log.info("Compiling Warp's kernels, as this machine runs this version for the first time; later runs find them.")


def _intact(folder: Path) -> set[Path]:
    """The files of a module that are as they were when they were compiled, and the seals that tell."""
    intact = set()
    for seal in folder.glob(f"*{_SEAL}"):
        try:
            digests = json.loads(seal.read_text(encoding="utf-8"))
            files = {folder / name: digest for name, digest in digests.items()}
            if files and all(_digest(file) == digest for file, digest in files.items()):
                intact |= {seal, *files}
        except (OSError, ValueError, AttributeError):  # damaged itself
            continue
    return intact


def _clear(folder: Path) -> None:
    """Remove what Warp must not find, and see that there is room. Raises OSError if either is impossible."""
    intact = _intact(folder)
    for file in folder.glob("*"):
        if file not in intact:
            file.unlink(missing_ok=True)
    for old in folder.parent.glob(f"{folder.name}_p*_t*"):
        if time.time() - old.stat().st_mtime > _ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryFile(dir=folder.parent) as probe:
        probe.write(os.urandom(_ROOM))  # random, as some file systems compress


def _write_seal(folder: Path, seal: Path) -> None:
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir()) if file.suffix != _SEAL}
    new = seal.with_name(f"{seal.name}-{os.getpid()}")
    new.write_text(json.dumps(digests), encoding="utf-8")
    os.replace(new, seal)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _use_temporary(reason: BaseException | None) -> None:
    """Compile into a temporary folder from now on."""
    usual = wp.config.kernel_cache_dir or "in the home folder"
    try:
        wp.config.kernel_cache_dir = str(temporary_folder("warp"))
    except OSError as error:
        raise _nowhere(usual, error) from error
    log.warning(
        "Warp's kernel cache %s cannot be used (%s); kernels are compiled into a temporary one, in every run anew.",
        usual,
        reason,
    )


def _nowhere(usual: str, error: BaseException) -> BackendError:
    return BackendError(
        f"Warp's kernels can be compiled neither in its cache ({usual}) nor in the folder for temporary files: "
        f"{error}. Free some space, or set WARP_CACHE_PATH to a folder that can be written."
    )
