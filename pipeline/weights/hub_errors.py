"""Why a download failed and what to do about it: one text for each answer and each trouble on the way."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.request import getproxies

_AGAIN = "Run the same command again; what is complete is kept."
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_HAVE = "If you have the files already, name their folder instead."

_UNGATED = (
    "Approval is given by hand: it may take weeks or be refused. The same weights as the file "
    "clip_vision/dino_v3_vit_l.safetensors of Comfy-Org/TRELLIS.2 work too and are not gated (models/clip_vision in "
    "ComfyUI, else --image-encoder FILE); so does the folder of anybody who has them. Meta's DINOv3 licence applies to "
    "every copy."
)

# HTTP status -> what it means, and the cure
_STATUS = {
    401: "the access token is not valid (any more). Make a new one at https://huggingface.co/settings/tokens and "
    f"{_LOG_IN}, or log out with `hf auth logout`: public repositories need no token",
    403: "access is forbidden. Accept the repository's terms on its page, if it has some, give the token read access "
    "to gated repositories, and see whether a proxy or a firewall blocks the hub",
    404: "there is no such file. Check the name, and HF_ENDPOINT if it is set",
    407: "the proxy wants a user name and a password. Put them into HTTPS_PROXY (http://user:password@host:port)",
    416: "the part that is here is not of this file. Delete the *.incomplete files in the cache and try again",
    429: f"too many requests. Wait a few minutes, {_LOG_IN} (users have a higher limit), then try again",
}
_SERVER = "the hub has trouble of its own. See https://status.huggingface.co, wait and run the same command again"

# name of the errno of a failed write -> the cure
_DISK = {
    "ENOSPC": "The disk is full. Make room, or set HF_HOME to a folder on another disk.",
    "EDQUOT": "The disk quota is used up. Make room, or set HF_HOME to a folder on another disk.",
    "EACCES": "The cache cannot be written. Give yourself write permission, or set HF_HOME to a folder of your own.",
    "EROFS": "The cache cannot be written. Set HF_HOME to a folder that can.",
}


def explanation(error: BaseException, repo: str, filename: str) -> str:
    """The text for a user about what huggingface_hub, or the HTTP library under it, raised.

    The first cause that is known decides, as huggingface_hub wraps an answer of the server in "not in the cache".
    """
    from huggingface_hub import errors

    what = f"{filename} of {repo}"
    causes = list(_causes(error))
    if any(isinstance(each, errors.GatedRepoError) for each in causes):
        instead = _UNGATED if "dinov3" in repo.lower() else _HAVE
        return f"{repo} is gated. Accept its terms at https://huggingface.co/{repo}, then {_LOG_IN}. {instead}"
    if any(isinstance(each, errors.RepositoryNotFoundError) for each in causes):
        return f"Hugging Face has no repository {repo}, or it is private. Check the name; a local folder must exist."
    if any(isinstance(each, errors.HFValidationError) for each in causes):
        return f"{repo} is no name of a Hugging Face repository (owner/name). Check it; a local folder must exist."
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in causes):
        return (
            f"{what} is not in the local cache and cannot be downloaded: HF_HUB_OFFLINE is set. Unset it once. {_HAVE}"
        )
    if any(_is_missing_entry(each) for each in causes):
        return f"{repo} has no file {filename}; it is not in the TRELLIS.2 layout."
    if status := next(filter(None, map(_status, causes)), None):
        meaning = _STATUS.get(status, _SERVER if status >= 500 else "that answer was not expected. Try again later")
        return f"The hub answered {status} for {what}: {meaning}."
    if cure := next(filter(None, map(_disk, causes)), None):
        return f"{what} cannot be stored. {cure}"
    if any(type(each).__name__ == "FileMetadataError" for each in causes):
        return (
            f"What answered for {what} is not the Hugging Face hub: a login page of the network, a proxy or a wrong "
            f"HF_ENDPOINT. Open any web page to log in to the network, check HF_ENDPOINT, then try again. {_HAVE}"
        )
    if trouble := _on_the_way(causes):
        return f"{what} is not in the local cache and cannot be downloaded: {trouble} {_HAVE}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = f"no connection to the hub ({_short(causes[-1])})" if len(causes) > 1 else "HF_HUB_OFFLINE is set"
        proxy = " A proxy is set: check HTTPS_PROXY and NO_PROXY." if getproxies() else ""
        return f"{what} is not in the local cache and cannot be downloaded: {why}.{proxy} Connect once. {_HAVE}"
    return f"The download of {what} was interrupted ({_short(error)}). {_AGAIN}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_missing_entry(error: BaseException) -> bool:
    """Whether the hub said that the repository has no such file, which is no LocalEntryNotFoundError."""
    from huggingface_hub import errors

    return isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError)


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer from 400 on."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _disk(error: BaseException) -> str | None:
    """The cure of a failed write; a connection's error, which has no file, is none."""
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number, "") if isinstance(number, int) else ""
    return _DISK.get(name) if name in ("ENOSPC", "EDQUOT") or getattr(error, "filename", None) else None


def _on_the_way(causes: list[BaseException]) -> str:
    """What is wrong between here and the hub, with the cure, or ""."""
    said = " ".join(f"{type(each).__name__} {each}" for each in causes)
    if any(isinstance(each, ssl.SSLError) for each in causes) or re.search(r"CERTIFICATE_VERIFY|SSLError|\[SSL", said):
        return (
            "the hub's certificate was not accepted, as happens behind a proxy that reads along, or with a wrong "
            "clock. Set SSL_CERT_FILE (and REQUESTS_CA_BUNDLE) to your organisation's certificates, and check the date."
        )
    if re.search(r"ProxyError|[Pp]roxy|SOCKS", said):
        return "the proxy does not answer or refuses. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    if any(isinstance(each, socket.gaierror) for each in causes) or re.search(
        r"[Nn]ame or service|[Nn]ame resolution|getaddrinfo|nodename nor servname|NameResolution", said
    ):
        return (
            "the hub's name cannot be resolved: no connection, or no DNS. Connect once, check HF_ENDPOINT if it is set."
        )
    if re.search(r"[Tt]ime(d )?out", said):
        return "the hub does not answer in time. Try again, or set HF_HUB_DOWNLOAD_TIMEOUT (seconds) higher."
    return ""


def _short(error: BaseException) -> str:
    """An error in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
