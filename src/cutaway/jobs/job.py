"""A job as a value: work in chunks by number, each the same whoever does it, in whatever order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import torch

from cutaway.errors import MethodError
from cutaway.model.model import Model

R_co = TypeVar("R_co", covariant=True)


@runtime_checkable
class Work(Protocol[R_co]):
    """What is to be done, as a value that pickles (a frozen dataclass, say): its chunks are known by number.

    `do` gives the same for the same chunk, whoever does it and whatever was done before; what it gives pickles too, and
    lies on the CPU where workers have GPUs. What chunks have in common (a clean run) may be kept on the value from
    the first of them on, as long as it is left out of what is pickled. Random numbers come from `dice`.
    """

    def do(self, model: Model, chunk: int) -> R_co:
        """One chunk, on the model as this worker has it."""


def dice(seed: int, chunk: int) -> torch.Generator:
    """The random numbers of a chunk: they follow from the seed and its number alone, never from the worker.

    >>> float(torch.rand(1, generator=dice(0, 3))) == float(torch.rand(1, generator=dice(0, 3)))
    True
    """
    return torch.Generator().manual_seed(_number(seed, chunk))


def done(work: Work[R_co], model: Model, chunk: int) -> R_co:
    """One chunk, here; whoever asks torch for random numbers without `dice` gets those of the chunk as well."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_number(-1, chunk))
        try:
            found = work.do(model, chunk)
        except SystemExit as asked:
            raise MethodError(
                f"chunk {chunk} asked its process to end (SystemExit: {asked.code})", expected="a value, or an error",
                do="raise an exception that says what is wrong",
            ) from asked  # fmt: skip
    if isinstance(found, Iterator):
        raise MethodError(
            f"chunk {chunk} gave an iterator ({type(found).__name__}), which is no value",
            expected="what pickles and can be read twice", do="give a list of it",
        )  # fmt: skip
    return found


def _number(seed: int, chunk: int) -> int:
    """A seed of 63 bits, far from that of the next chunk."""
    return int.from_bytes(hashlib.sha256(f"{seed} {chunk}".encode()).digest()[:8], "big") >> 1
