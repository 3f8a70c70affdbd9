"""Jobs in a database: SQLite in a file, PostgreSQL, or any other of SQLAlchemy. One service for each database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from pipeline.errors import SettingsError

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
INTERRUPTED, EXPIRED = "interrupted", "expired"
ENDED = (DONE, FAILED, CANCELLED, INTERRUPTED, EXPIRED)

_META = sa.MetaData()
_JOBS = sa.Table(
    "trellis2_jobs",
    _META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("command", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float, index=True),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Column("stage", sa.String(64), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("problem", sa.JSON),
    sa.Column("result", sa.JSON),
    sa.Column("key", sa.String(255), unique=True),
    sa.Column("digest", sa.String(64)),
)


@dataclass(frozen=True)
class Job:
    """A row. Times in seconds since 1970.

    command: generate or finish, of the command line. inputs: {"pictures": [...], "masks": [...], "state": ...}, each
        the id of a job and a name in the store. files: {name: bytes} of the results. kept: whether anything of it may
        still be stored. key, digest: of an idempotent request.
    """

    command: str
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    id: str = field(default_factory=lambda: uuid4().hex)
    status: str = QUEUED
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    files: dict[str, int] = field(default_factory=dict)
    kept: bool = True
    stage: str = ""
    tries: int = 0
    problem: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    key: str | None = None
    digest: str | None = None


_NAMES = [each.name for each in fields(Job)]


class QueueFullError(Exception):
    """The queue has reached its limit."""


DATABASE_ERRORS = (sa.exc.DBAPIError, sa.exc.TimeoutError)  # of any method: the database is out of reach, or full


class Jobs:
    """The table; every method is one transaction and may be called from any thread.

    Raises:
        SettingsError: the database cannot be reached, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._adding = threading.Lock()  # otherwise several threads would find the same last place
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _prepare_sqlite)
            _META.create_all(self._engine)
        except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as error:
            place = url if "@" not in url else url.split("@")[-1]  # without the password
            raise SettingsError(
                f"The database {place} cannot be used: {str(error).splitlines()[0]}. Check the URL, that the server "
                "runs, and that its driver is installed (pip install 'psycopg[binary]' for postgresql+psycopg://)."
            ) from error

    def close(self) -> None:
        self._engine.dispose()

    def add(self, job: Job, queue_limit: int) -> Job:
        """Queue a job, or return the existing one with the same key.

        Raises:
            QueueFullError: as many jobs wait as may.
        """
        if job.key is not None and (known := self.of_key(job.key)):
            return known
        try:
            with self._adding, self._engine.begin() as connection:
                waiting = connection.scalar(sa.select(sa.func.count()).where(_JOBS.c.status == QUEUED)) or 0
                if waiting >= queue_limit:
                    raise QueueFullError
                connection.execute(_JOBS.insert().values({name: getattr(job, name) for name in _NAMES}))
        except sa.exc.IntegrityError:  # the same key, at the same time
            known = self.of_key(job.key) if job.key is not None else None
            if known is None:
                raise
            return known
        return job

    def get(self, job_id: str) -> Job | None:
        return self._one(_JOBS.c.id == job_id)

    def of_key(self, key: str) -> Job | None:
        return self._one(_JOBS.c.key == key)

    def claim(self) -> Job | None:
        """Mark the job that has waited longest as running, and return it."""
        with self._engine.begin() as connection:
            oldest = sa.select(_JOBS.c.id).where(_JOBS.c.status == QUEUED).order_by(_JOBS.c.created, _JOBS.c.id)
            job_id = connection.scalar(oldest.limit(1))
            if job_id is None:
                return None
            changed = connection.execute(
                _JOBS.update()
                .where(_JOBS.c.id == job_id, _JOBS.c.status == QUEUED)
                .values(status=RUNNING, started=time.time(), tries=_JOBS.c.tries + 1, stage="")
            )
            if not changed.rowcount:  # cancelled meanwhile
                return None
        return self.get(job_id)

    def change(self, job_id: str, only: Iterable[str], **values: Any) -> bool:
        """Set columns of a job if its status is one of `only`. Returns whether it was."""
        with self._engine.begin() as connection:
            statement = _JOBS.update().where(_JOBS.c.id == job_id, _JOBS.c.status.in_(tuple(only)))
            return bool(connection.execute(statement.values(**values)).rowcount)

    def counts(self) -> dict[str, int]:
        """{status: jobs}."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_JOBS.c.status, sa.func.count().label("jobs")).group_by(_JOBS.c.status))
            return {row.status: row.jobs for row in rows}

    def waiting(self) -> int:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).where(_JOBS.c.status == QUEUED)) or 0

    def ahead_of(self, job: Job) -> int:
        """How many jobs wait before this one."""
        earlier = sa.or_(_JOBS.c.created < job.created, sa.and_(_JOBS.c.created == job.created, _JOBS.c.id < job.id))
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).where(_JOBS.c.status == QUEUED, earlier)) or 0

    def with_status(self, status: str) -> list[Job]:
        return self._all(_JOBS.c.status == status)

    def recent(self, count: int) -> list[Job]:
        """The last finished ones, newest first."""
        return self._all(_JOBS.c.status.in_((DONE, EXPIRED)), _JOBS.c.finished.desc(), count)

    def kept_and_finished_before(self, moment: float) -> list[Job]:
        return self._all(sa.and_(_JOBS.c.finished < moment, _JOBS.c.status.in_(ENDED), _JOBS.c.kept))

    def forget_finished_before(self, moment: float) -> None:
        """Delete the rows of jobs of which nothing is kept."""
        with self._engine.begin() as connection:
            connection.execute(_JOBS.delete().where(_JOBS.c.finished < moment, sa.not_(_JOBS.c.kept)))

    def _one(self, condition: sa.ColumnElement[bool]) -> Job | None:
        found = self._all(condition, count=1)
        return found[0] if found else None

    def _all(self, condition, order=None, count: int | None = None) -> list[Job]:
        statement = sa.select(*(_JOBS.c[name] for name in _NAMES)).where(condition)
        statement = statement.order_by(_JOBS.c.created if order is None else order).limit(count)
        with self._engine.connect() as connection:
            return [Job(**row._mapping) for row in connection.execute(statement)]


def _prepare_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    """Settings for SQLite: readers do not block a writer, and writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()
