"""Files that are there whole or not at all, whose content is known by a checksum; one writer at a time in a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cutaway.errors import StoreError

LOCK, UNFINISHED = "writer.lock", ".part"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PIECE = 2**24  # bytes read at once where a whole file is gone through
Piece = bytes | memoryview


def write_whole(path: Path, pieces: Iterable[Piece]) -> str:
    """Write a file under another name, bring it to the disk, give it its own; the checksum of what was written.

    Whoever stops in between leaves the other name at most. A full disk is a StoreError, and that file is gone.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    digest, size = hashlib.sha256(), 0
    try:
        with unfinished.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                size += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _settle(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(
                f"'{path}' does not fit on its disk ({error.strerror}): {size} bytes of it were written",
                expected="a disk with room for the whole store", exists="all that was committed before is kept",
                do="make room and run the same again: it goes on from there; or keep less (`where=`, `dtype=`, sites)",
            ) from error  # fmt: skip
        raise StoreError(
            f"'{path}' cannot be written ({error.strerror or error})", expected="a folder that can be written to",
            exists="all that was committed before is kept", do="repair it and run the same again",
        ) from error  # fmt: skip
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return digest.hexdigest()


def _settle(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    """A mapping as a file, whole or not at all."""
    write_whole(path, [(json.dumps(told, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()])


def read_json(
    path: Path, do: str = "run the same harvest again: what is damaged is made anew"
) -> dict[str, Any]:  # fmt: skip
    """The mapping of such a file; StoreError where it cannot be read, with what to `do` then."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(
            f"'{path}' cannot be read ({type(error).__name__})", expected="a file that `harvest` wrote, whole",
            do=do, exists="the other files of the store",
        ) from error  # fmt: skip
    return dict(told)


def checksum(path: Path) -> str:
    """The checksum of a file as it is now: SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sweep_up(folder: Path) -> None:
    """Take away what writers that were stopped have left; only for who holds the lock."""
    for left in folder.glob(f"*{UNFINISHED}"):
        left.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one writer of a folder; another one, in any process, is an error. Ends with the process that holds it."""
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            "this system has no lock that ends with its process", expected="Linux or macOS",
            do="harvest there; a store can be read anywhere",
        ) from error  # fmt: skip
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"'{folder}' is being written by another process", expected="one writer at a time",
                exists="a harvest that holds its lock", do="wait for it; then the same call takes up what is missing",
            ) from error  # fmt: skip
        yield
