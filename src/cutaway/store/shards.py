"""The tensors of a shard as a safetensors file, written piece by piece and read by rows without the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.store.files import Piece

# As safetensors calls them, the wide ones first, so that each tensor begins where numbers of its kind may.
DTYPES = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "U8": torch.uint8, "I8": torch.int8,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNED = 64  # bytes; the header is filled up to this
TOLD = "cutaway"  # our entry among the metadata: the order of several is not fixed, of one it is


def pieces(tensors: Mapping[str, Sequence[Shaped[Tensor, "..."]]], told: Mapping[str, Any]) -> Iterator[Piece]:
    """The bytes of a safetensors file of these tensors, each given in parts along its first axis; nothing is joined.

    `told` is any JSON, kept among the metadata. The same content gives the same bytes.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name][0].dtype.itemsize, name))
    words = json.dumps(told, ensure_ascii=False, sort_keys=True, allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {TOLD: words}}
    at = 0
    for name in order:
        parts = tensors[name]
        shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
        end = at + math.prod(shape) * parts[0].dtype.itemsize
        header[name] = {"dtype": NAMES[parts[0].dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNED)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        for part in tensors[name]:
            if part.numel():
                yield as_bytes(part)


def as_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The memory of a tensor, copied only where it does not lie in order on the CPU."""
    flat = tensor.detach().cpu().reshape(-1)
    plain = flat if flat.stride(0) == 1 else flat.new_empty(flat.shape).copy_(flat)  # one number of an expanded tensor
    return plain.view(torch.uint8).numpy().data


class Shard:
    """A file that `pieces` wrote, read by rows: what is asked for is read, and nothing else held. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _laid(self) -> tuple[dict[str, Any], int]:
        """What the header says, and where the tensors begin."""
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                text = file.read(length) if length < self.path.stat().st_size else b""
            header = json.loads(text)
        except (OSError, ValueError) as error:
            raise self._damaged("its header cannot be read") from error
        return header, 8 + length

    @property
    def told(self) -> dict[str, Any]:
        """What was told beside the tensors."""
        try:
            found = dict(json.loads(self._laid[0]["__metadata__"][TOLD]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("its header is not what was written") from error
        if not {"shard", "of", "words", "constants", "rows"} <= set(found):
            raise self._damaged("its header is not what was written")
        return found

    def check(self, number: int, of: str, rows: Mapping[str, int]) -> None:
        """Raise StoreError unless it says that it is this shard of this store, with so many rows in each table."""
        told = self.told
        if [told["shard"], told["of"], told["rows"]] != [number, of, dict(rows)]:
            raise self._damaged("it is another shard, or of another store")

    def __contains__(self, name: str) -> bool:
        return name in self._laid[0]

    def __len__(self) -> int:
        """How many tensors it holds."""
        return len(self._laid[0]) - 1

    def named(self, prefix: str) -> list[str]:
        """The tensors whose names begin so, without that."""
        return [name.removeprefix(prefix) for name in self._laid[0] if name.startswith(prefix)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, rows first."""
        return tuple(self._entry(name)["shape"])

    def read(
        self, name: str, start: int = 0, stop: int | None = None, into: Shaped[Tensor, "row *shape"] | None = None
    ) -> Shaped[Tensor, "row *shape"]:
        """Rows of a tensor, from the disk into memory of their own, or into that of a tensor of their shape."""
        entry = self._entry(name)
        rows, *shape = entry["shape"]
        start, stop, _ = slice(start, stop).indices(rows)
        made = torch.empty(max(0, stop - start), *shape, dtype=DTYPES[entry["dtype"]]) if into is None else into
        if made.numel():
            width = math.prod(shape) * made.dtype.itemsize
            memory = made.reshape(-1).view(torch.uint8).numpy().data
            try:
                self._file.seek(self._laid[1] + entry["data_offsets"][0] + start * width)
                if _fill(self._file, memory) < len(memory):
                    raise self._damaged("it ends before its tensors do")
            except OSError as error:
                raise self._damaged(error.strerror or str(error)) from error
        return made

    @cached_property
    def _file(self) -> FileIO:
        return FileIO(self.path)

    def __del__(self) -> None:
        if "_file" in vars(self):
            self._file.close()

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._laid[0]:
            raise self._damaged(f"it has no '{name}'")
        return dict(self._laid[0][name])

    def _damaged(self, how: str) -> StoreError:
        return StoreError(
            f"the shard '{self.path}' is damaged: {how}", expected="the file that `harvest` wrote, whole",
            exists="the other shards, unless `cutaway store check` names them",
            do="run the same harvest again: it makes this shard anew",
        )  # fmt: skip


def _fill(file: FileIO, into: memoryview) -> int:
    """Read until there is no more to fill, or to read."""
    done = 0
    while done < len(into) and (got := file.readinto(into[done:])):
        done += got
    return done
