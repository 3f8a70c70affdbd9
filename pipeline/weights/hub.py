"""Files from the Hugging Face hub: cached, resumed, offline when asked, with errors in plain words."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repo_id(name: str) -> bool:
    """Whether a string has the form owner/name."""
    return _REPO.fullmatch(name) is not None


def fetch(repo: str, filename: str) -> Path:
    """A file of a repository, from the cache or downloaded with a progress bar (resumed where it broke off).

    HF_HUB_OFFLINE=1, HF_HOME, HF_TOKEN and HF_ENDPOINT work as everywhere (huggingface_hub reads them).

    Raises:
        CheckpointError: no such repository or file, no access, no connection, interrupted.
    """
    from huggingface_hub import errors, hf_hub_download

    where = f"{filename} of {repo}"
    # transport errors have no common base across huggingface_hub 0.x (requests) and 1.x-2.x (httpx),
    # but each version's HTTP error derives from its library's
    transport = (OSError, *errors.HfHubHTTPError.__bases__)
    try:
        return Path(hf_hub_download(repo, filename))
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
