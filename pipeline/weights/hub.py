"""Files from the Hugging Face hub: cached, resumed, offline when asked, with errors in plain words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError

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

    where = f"{filename} of {repo}"
    counting = {}
    if on_bytes is not None and "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        counting["tqdm_class"] = _counting_bar(on_bytes)
    # transport errors have no common base across huggingface_hub 0.x (requests) and 1.x-2.x (httpx),
    # but each version's HTTP error derives from its library's
    transport = (OSError, *errors.HfHubHTTPError.__bases__)
    try:
        return Path(hf_hub_download(repo, filename, **counting))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated. Accept its terms at https://huggingface.co/{repo}, then log in with `hf auth login` "
            "or set HF_TOKEN. If you have the files already, name their folder instead."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"Hugging Face has no repository {repo}, or it is private. Check the name; a local folder must exist."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where} is not in the local cache and cannot be downloaded: no connection to the hub, or "
            "HF_HUB_OFFLINE is set. Connect once, or name a local folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{repo} has no file {filename}; it is not in the TRELLIS.2 layout.") from error
    except transport as error:
        raise CheckpointError(
            f"The download of {where} was interrupted ({type(error).__name__}: {error}). "
            "Run the same command again; what is complete is kept."
        ) from error


def cached_file(repo: str, filename: str) -> Path | None:
    """A file of a repository if it has been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename)
    return Path(found) if isinstance(found, str) else None


def cached_repositories() -> list[str]:
    """The repositories in the local cache."""
    from huggingface_hub import constants

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    return [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]


def _counting_bar(on_bytes: OnBytes) -> type:
    """The hub's progress bar, which also calls on_bytes."""
    from huggingface_hub.utils import tqdm

    class CountingBar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            on_bytes(int(self.n), int(self.total or 0))
            return shown

    return CountingBar
