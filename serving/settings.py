"""The settings of a service: limits, paths and workers, as options of `python -m serving run`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cli.options import (
    add_backend,
    add_device,
    add_dtype,
    add_image_encoder,
    add_memory_limit,
    backend_choices,
)
from pipeline.cli.planning import add_log
from pipeline.console import real_number, whole_number
from pipeline.errors import SettingsError

MB = 1_000_000  # bytes


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a worker; plain values, as they are sent to another process.

    store: URL of the results, see store.Store. threads: of torch on a CPU; 0: all cores. log: file of
    the structured log; "-": standard error. checkpoint, device, ...: as the
    options of `python -m pipeline generate` mean them.
    """

    store: str
    store_options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    image_encoder: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    memory_limit: int | None = None
    backends: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    log: str | None = None


@dataclass(frozen=True)
class ServiceSettings:
    """Places, limits and workers of a service.

    keep_seconds: how long results of a finished job stay. disk_bytes: below so much free space nothing is accepted.
    time_limit: seconds that one job may compute. tries: how often a job may begin, if its worker dies under it.
    """

    data: Path
    database: str
    worker: WorkerSettings
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    gpus_each: float = 0.0
    address: str | None = None
    queue_limit: int = 100
    picture_bytes: int = 20 * MB
    pictures: int = 16
    state_bytes: int = 2000 * MB
    keep_seconds: float = 24 * 3600.0
    disk_bytes: int = 2000 * MB
    time_limit: float = 3600.0
    tries: int = 2
    node_modules: Path | None = None


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0: one that is free")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    parser.add_argument("--database", metavar="URL", help="of SQLAlchemy; default: a SQLite file in --data")
    parser.add_argument("--store", metavar="URL", help="of fsspec, for results; default: a folder in --data")
    parser.add_argument(
        "--store-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the fsspec file system; the value may be JSON",
    )
    add_log(parser)
    _add_limits(parser)
    _add_workers(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--queue-limit", type=_count, default=100, metavar="N", help="waiting jobs; default: 100")
    group.add_argument("--max-picture", type=_size, default=20.0, metavar="MB", help="of one picture; default: 20")
    group.add_argument("--max-pictures", type=_count, default=16, metavar="N", help="of one job; default: 16")
    group.add_argument("--max-state", type=_size, default=2000.0, metavar="MB", help="of a state; default: 2000")
    group.add_argument("--keep", type=_size, default=24.0, metavar="HOURS", help="results are kept; default: 24")
    group.add_argument(
        "--disk-watermark", type=_at_least_0, default=2.0, metavar="GB", help="free space that must remain; default: 2"
    )
    group.add_argument("--time-limit", type=_size, default=60.0, metavar="MINUTES", help="of one job; default: 60")
    group.add_argument(
        "--tries", type=_count, default=2, metavar="N", help="of a job whose worker dies under it; default: 2"
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--checkpoint", metavar="DIR_OR_HF_ID", help="as for python -m pipeline generate; default: the small one"
    )
    add_image_encoder(parser)
    add_device(parser)
    add_dtype(parser)
    add_memory_limit(parser)
    add_backend(parser)
    group.add_argument("--workers", type=_count, metavar="N", help="default: one for each GPU; without GPUs one")
    group.add_argument("--gpus-each", type=_at_least_0, metavar="X", help="GPUs of a worker, may be a part; default: 1")
    group.add_argument(
        "--threads", type=_from_0, default=0, metavar="N", help="of a worker on a CPU; default: all cores"
    )
    group.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster that runs already; default: one of its own"
    )
    parser.add_argument(
        "--node-modules",
        type=Path,
        metavar="DIR",
        help="npm's packages for the pages: three and swagger-ui-dist; default: serving/web/node_modules",
    )


def from_options(options: argparse.Namespace) -> ServiceSettings:
    """Raises SettingsError for values that cannot work."""
    import torch  # late: `generate` needs none of this

    data = options.data.resolve()
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    if options.gpus_each is not None and not on_gpu:
        raise SettingsError("--gpus-each would have no effect: the workers run on the CPU. Leave it out.")
    worker = WorkerSettings(
        store=options.store or f"file://{(data / 'results').as_posix()}",  # fsspec decodes no %20
        store_options=dict(_pair(each) for each in options.store_option),
        checkpoint=options.checkpoint,
        image_encoder=options.image_encoder,
        device=options.device,
        dtype=options.dtype,
        memory_limit=options.memory_limit,
        backends=backend_choices(options),
        threads=options.threads,
        log=None if options.log_json is None else str(options.log_json),
    )
    return ServiceSettings(
        data=data,
        database=options.database or f"sqlite:///{data / 'jobs.sqlite'}",
        worker=worker,
        host=options.host,
        port=options.port,
        workers=options.workers or (torch.cuda.device_count() if on_gpu else 1),
        gpus_each=(1.0 if options.gpus_each is None else options.gpus_each) if on_gpu else 0.0,
        address=options.address,
        queue_limit=options.queue_limit,
        picture_bytes=round(options.max_picture * MB),
        pictures=options.max_pictures,
        state_bytes=round(options.max_state * MB),
        keep_seconds=options.keep * 3600,
        disk_bytes=round(options.disk_watermark * 1000 * MB),
        time_limit=options.time_limit * 60,
        tries=options.tries,
        node_modules=options.node_modules,
    )


def plain(settings: WorkerSettings) -> dict[str, Any]:
    """As plain values, for a process in which this class may not be importable yet."""
    return asdict(settings)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--store-option takes KEY=VALUE, got {text!r}.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _count(text: str) -> int:
    count = whole_number(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _from_0(text: str) -> int:
    count = whole_number(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return count


def _port(text: str) -> int:
    port = _from_0(text)
    if port > 65535:
        raise argparse.ArgumentTypeError("must be at most 65535")
    return port


def _at_least_0(text: str) -> float:
    size = real_number(text)
    if not 0 <= size < 1e9:  # NaN too
        raise argparse.ArgumentTypeError("must be a number of at least 0")
    return size


def _size(text: str) -> float:
    size = real_number(text)
    if not 0 < size < 1e9:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return size
