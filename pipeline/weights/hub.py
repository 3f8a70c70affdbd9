"""Files from the Hugging Face hub: cached, resumed, offline when asked, with errors in plain words."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError
from .hub_errors import explanation

OnBytes = Callable[[int, int], None]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repo_id(name: str) -> bool:
    """Whether a string has the form owner/name."""
    return _REPO.fullmatch(name) is not None


def fetch(repo: str, filename: str, on_bytes: OnBytes | None = None) -> Path:
    """A file of a repository, from the cache or downloaded with a progress bar (resumed where it broke off).

    HF_HUB_OFFLINE=1, HF_HOME, HF_TOKEN and HF_ENDPOINT work as everywhere (huggingface_hub reads them).

    Args:
        on_bytes: called now and then with the bytes of the file that are here and its size, where
            huggingface_hub can tell (from 1.0); an exception it raises stops the download.

    Raises:
        CheckpointError: no such repository or file, no access, no connection, interrupted.
    """
    from huggingface_hub import errors, hf_hub_download

    counting = {}
    if on_bytes is not None and "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        counting["tqdm_class"] = _counting_bar(on_bytes)
    # transport errors have no common base across huggingface_hub 0.x (requests) and 1.x-2.x (httpx), but each
    # version's HTTP error derives from its library's; its native downloader raises RuntimeError
    library = tuple(each for each in errors.HfHubHTTPError.__bases__ if issubclass(each, BaseException))
    expected = (OSError, RuntimeError, errors.HFValidationError, errors.EntryNotFoundError, *library)
    try:
        return Path(hf_hub_download(repo, filename, **counting))
    except expected as error:
        raise CheckpointError(explanation(error, repo, filename)) from error


def cached_file(repo: str, filename: str) -> Path | None:
    """A file of a repository if it has been downloaded and can be looked up."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repo, filename)
    except (OSError, ValueError):  # an unreadable or damaged cache; a folder that is no repository's
        return None
    return Path(found) if isinstance(found, str) else None


def cached_repositories() -> list[str]:
    """The repositories in the local cache; none if it cannot be read."""
    from huggingface_hub import constants

    try:
        names = sorted(os.listdir(constants.HF_HUB_CACHE))
    except OSError:
        return []
    repositories = [
        name.removeprefix("models--").replace("--", "/", 1) for name in names if name.startswith("models--")
    ]
    return [name for name in repositories if is_repo_id(name)]


def _counting_bar(on_bytes: OnBytes) -> type:
    """The hub's progress bar, which also calls on_bytes."""
    from huggingface_hub.utils import tqdm

    class CountingBar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            on_bytes(int(self.n), int(self.total or 0))
            return shown

    return CountingBar
