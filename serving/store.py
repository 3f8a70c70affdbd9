"""Pictures, states and results of jobs, a folder for each job: on disk, or in any store that fsspec supports."""

from __future__ import annotations

import ftplib
import re
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import OutputError, SettingsError, StateError
from pipeline.words import counted

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_TROUBLE = (OSError, EOFError, ValueError, RuntimeError, ftplib.Error)  # what file systems of fsspec raise


class Store:
    """url: of fsspec, such as file:///data/results, s3://bucket/results, ftp://user@host/results. options: arguments of
    its file system.

    Raises:
        SettingsError: there is no such kind of store, its package is missing, or nothing can be written there.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        try:
            self._fs, self._root = url_to_fs(url, **(options or {}))
            self._fs.makedirs(self._root, exist_ok=True)
        except (*_TROUBLE, ImportError, TypeError) as error:
            raise SettingsError(
                f"The store {_without_password(url)} cannot be used: {error}. Give a folder or a URL of fsspec, and "
                "install its package (s3fs for s3://, gcsfs for gs://)."
            ) from error
        # file systems that are not asynchronous may hold one connection
        shared = self._fs.async_impl or isinstance(self._fs, LocalFileSystem)
        self._one_at_a_time = nullcontext() if shared else threading.Lock()

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that it is, or None."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def put(self, job_id: str, source: Path, name: str) -> None:
        """Store a file under a job. Raises OutputError, without leaving a partial file."""
        target = self._path(job_id, name)
        try:
            with self._one_at_a_time:
                self._fs.makedirs(self._path(job_id), exist_ok=True)
                self._fs.put_file(str(source), target)
                stored = self._fs.info(target)["size"]
            if stored != source.stat().st_size:
                raise OSError(f"{stored:,} of {counted(source.stat().st_size, 'byte')} arrived")
        except _TROUBLE as error:
            self.remove_file(job_id, name)
            raise OutputError(
                f"{name} could not be stored: {error}. The store may be full or out of reach; try again later."
            ) from error

    def fetch(self, job_id: str, name: str, target: Path) -> None:
        """Copy a stored file to this machine. Raises StateError if it is not there."""
        try:
            if not self.has(job_id, name):  # asked first: what file systems raise differs
                raise StateError(f"{name} of job {job_id} is no longer stored. Send the request again.")
            with self._one_at_a_time:
                self._fs.get_file(self._path(job_id, name), str(target))
        except _TROUBLE as error:
            raise OutputError(f"The store cannot be read: {error}. Try again later.") from error

    def has(self, job_id: str, name: str) -> bool:
        with self._one_at_a_time:
            return bool(self._fs.exists(self._path(job_id, name)))

    def remove_file(self, job_id: str, name: str) -> None:
        """Remove a file if it exists and the store permits it; otherwise it is removed with the job."""
        try:
            with self._one_at_a_time:
                self._fs.rm_file(self._path(job_id, name))
        except _TROUBLE:
            pass

    def remove(self, job_id: str) -> None:
        """Remove all that is stored of a job. Raises OutputError."""
        try:
            with self._one_at_a_time:
                if self._fs.exists(self._path(job_id)):
                    self._fs.rm(self._path(job_id), recursive=True)
        except FileNotFoundError:
            pass
        except _TROUBLE as error:
            raise OutputError(f"What is stored of job {job_id} cannot be removed: {error}.") from error

    def jobs(self) -> list[str]:
        """The jobs of which something is stored. Raises OutputError."""
        try:
            with self._one_at_a_time:
                names = [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]
        except _TROUBLE as error:
            raise OutputError(f"The store cannot be listed: {error}.") from error
        return [name for name in names if re.fullmatch(r"[0-9a-f]{32}", name)]  # others are not the service's

    def free_bytes(self) -> int | None:
        """Bytes that a folder of this machine has left; None for other stores."""
        return shutil.disk_usage(self._root).free if self.folder is not None else None

    def _path(self, job_id: str, name: str = "") -> str:
        for part in (job_id, name) if name else (job_id,):
            if not _NAME.fullmatch(part):  # names are generated; a path among them would be a bug
                raise ValueError(f"{part!r} is no name in a store")
        return "/".join(filter(None, (self._root.rstrip("/"), job_id, name)))


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
