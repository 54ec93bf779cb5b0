"""Ray: one that is started here and ends here, or one that runs already; how many workers it holds."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.errors import MethodError

SAID = "a number of processes here, `ray://HOST:10001` or `auto` (a cluster; `ray://HOST:10001#8` takes 8 of it)"

MODE = "RAY_AUTH_MODE"
ALONE = {  # for a Ray of this machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # how the next version will be, without a warning
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its name of old: listen to this machine only, on Linux too
}


@dataclass(frozen=True)
class Layout:
    """How many workers, and what each takes: processors, as many threads, a GPU or none."""

    workers: int
    cpus: int
    threads: int
    gpus: int = 0


def counted(workers: int | str) -> int | str:
    """Workers as a command line says them, a number as one; MethodError for what is neither that nor a cluster.

    >>> counted("4"), counted("ray://head:10001")
    (4, 'ray://head:10001')
    """
    workers = int(workers) if isinstance(workers, str) and workers.isdecimal() else workers
    if isinstance(workers, int):
        known = workers >= 0
    else:
        address, some, many = workers.partition("#")
        known = (address == "auto" or address.startswith("ray://")) and many.isdecimal() == bool(some)
    if not known:
        raise MethodError(f"workers={workers!r}", expected=SAID, do="0 works in this process")
    return workers


@contextmanager
def reached(workers: int | str, gpu: bool) -> Iterator[Layout]:
    """Ray for the length of a block: one that runs already stays; what was started here ends, processes and files.

    Raises MethodError where Ray is not installed, cannot be reached or is too small.
    """
    address, _, many = ("", "", "") if isinstance(workers, int) else workers.partition("#")
    with _environment({} if address else ALONE):  # read when Ray is first imported, and by its processes
        ray = _imported(workers)
    with _connected(ray, address, workers if isinstance(workers, int) else 0):
        wanted = workers if isinstance(workers, int) else int(many or 0)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        own = torch.get_num_threads() if not address else 0
        yield laid_out(wanted, nodes, gpu, own)


def laid_out(wanted: int, nodes: Sequence[dict[str, float]], gpu: bool, threads: int = 0) -> Layout:
    """So many workers on these nodes: 0 is one a GPU, or one a node for a model on the CPU.

    Each takes as many processors as all can have; `threads` are those of this process, which its own workers share.

    >>> laid_out(3, [{"CPU": 16.0}, {"CPU": 8.0}], gpu=False)
    Layout(workers=3, cpus=8, threads=8, gpus=0)
    """
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    many = wanted or (sum(gpus) if gpu else sum(some > 0 for some in cpus))
    if gpu:
        shares = [max(1, some // own) for some, own in zip(cpus, gpus, strict=True) if own]
        fits = [min(shares)] if sum(gpus) >= many > 0 else []
    else:
        fits = [each for each in range(1, max(cpus, default=0) + 1) if sum(some // each for some in cpus) >= many]
    if not many or not fits:
        raise MethodError(
            f"Ray has no room for {many or 'any'} workers", exists=f"{sum(cpus)} processors and {sum(gpus)} GPUs",
            expected="a GPU for each, the model being on one" if gpu else "a processor for each",
            do="take fewer workers, or a larger cluster",
        )  # fmt: skip
    return Layout(many, fits[-1], max(1, threads // many) if threads else fits[-1], int(gpu))


@contextmanager
def _connected(ray: Any, address: str, workers: int) -> Iterator[None]:
    """A Ray that this process is connected to already; else the one at an address; else one for the block."""
    if ray.is_initialized():
        yield
        return
    before, mode = signal.getsignal(signal.SIGTERM), os.environ.get(MODE)
    folder = None if address else tempfile.mkdtemp(prefix="ray-", dir=_short())
    try:
        if folder is not None:
            _start(ray, workers, folder)
        else:
            _join(ray, address)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if mode is None:  # Ray asks for a token from here on, for its own processes
            os.environ.pop(MODE, None)
        if threading.current_thread() is threading.main_thread():  # Ray puts its own there
            signal.signal(signal.SIGTERM, before)


def _start(ray: Any, workers: int, folder: str) -> None:
    """A Ray of this machine alone: no dashboard, no report to its makers, no output of its own."""
    with _environment(ALONE):
        ray.init(
            address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            _temp_dir=folder,
        )  # fmt: skip


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ImportError, TimeoutError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MethodError(
            f"no Ray could be reached at '{address}' ({reason[0]})", expected=SAID,
            do="start one (`ray start --head`), with the same versions of Python and Ray as here; where it asks for a "
            "token, RAY_AUTH_MODE=token is set here as well; see docs/jobs.md",
        ) from error  # fmt: skip


def _imported(workers: int | str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise MethodError(
            f"workers={workers!r} needs Ray, which is not installed",
            do="`pip install 'cutaway[ray]'`, or take workers=0: the same numbers from this process",
        ) from error
    return ray


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for processes that are started in the block; those that a user has set stay."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _short() -> str | None:
    """Where Ray's sockets fit: their paths may have 107 letters, of which it takes about 70."""
    return None if len(tempfile.gettempdir()) < 25 else "/tmp"
