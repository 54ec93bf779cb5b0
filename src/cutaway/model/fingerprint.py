"""One digest of content for everything that is kept: equal content, equal digest, in another process as well.

Nothing is known by its `repr` or its address. A tensor goes by dtype, shape and bytes; a module by its parts,
parameters and buffers; a function by its code and the values it computes with; any other object by the state it would
be copied from. What an installed library defines goes by its name there. What has no state that can be read is refused.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.errors import InputError
from cutaway.model.engine import Engine
from cutaway.model.known import mapped
from cutaway.model.run import Run

PIECE = 2**24  # entries of a tensor that are copied at once
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
WRITTEN = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"})
Spelled = Iterable[object]


def fingerprint(*parts: object) -> str:
    """A digest of these values by their content, as 64 hexadecimal digits.

    Raises InputError for what has no content that can be read: weights that are not in memory, an open file, a lock.

    >>> fingerprint([torch.ones(3), 2]) == fingerprint([torch.ones(3), 2])
    True
    >>> fingerprint(torch.ones(3)) == fingerprint(torch.ones(3, dtype=torch.bfloat16))
    False
    """
    return _Reader().read(parts).hex()


class _Reader:
    """Reads each value once. A value that lies inside itself is known by how far outside it began."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[object, bytes]] = {}  # the value is held, so that its address stays its own
        self.open: dict[int, object] = {}

    def read(self, value: object) -> bytes:
        """The digest of one value."""
        if isinstance(value, bytes):
            return b"bytes " + value
        if type(value) in ATOMS:
            return f"{type(value).__name__} {value!r}".encode()
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.open:
            return f"inside {list(reversed(self.open)).index(id(value))}".encode()
        self.open[id(value)] = value
        try:
            parts = [self.read(part) for part in spelled(value)]
        except _Unreadable as error:
            if len(self.open) > 1:
                raise
            raise InputError(
                f"`resume=` needs a target and edits whose content is known, and {error} has none that can be read",
                expected="numbers, texts, tensors, modules that are in memory, dataclasses, and functions of these",
                do="take it out of the target or the edit, or leave `resume=` out",
            ) from error
        finally:
            del self.open[id(value)]
        whole = hashlib.blake2b(digest_size=32)
        for part in sorted(parts) if isinstance(value, _Unordered) else parts:
            whole.update(len(part).to_bytes(8, "big") + part)
        self.known[id(value)] = value, whole.digest()
        return whole.digest()


class _Unreadable(Exception):  # noqa: N818, becomes an InputError
    """A value without content, in words."""


class _Unordered(list[object]):
    """Values whose order says nothing."""


# --- what a value is made of ------------------------------------------------------------------------------------------


@functools.singledispatch
def spelled(value: Any) -> Spelled:
    """The parts that a value is equal in when it is equal; of an unknown object, what a copy would be made of."""
    engine = getattr(value, "engine", value)
    if isinstance(engine, Engine):
        return _model(engine)
    if hasattr(value, "get_vocab"):
        return type(value), json.dumps(sorted(value.get_vocab().items()))
    if is_dataclass(value):
        return "dataclass", type(value), {item.name: getattr(value, item.name, None) for item in fields(value)}
    try:
        made = value.__reduce_ex__(2)
    except (TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise _Unreadable(f"a '{type(value).__module__}.{type(value).__qualname__}'") from error
    if isinstance(made, str):
        return "named", getattr(value, "__module__", ""), made, getattr(value, "__wrapped__", None)
    return "object", *(part if type(part) in ATOMS or isinstance(part, tuple) else _listed(part) for part in made)


def _listed(part: Any) -> object:
    return list(part) if hasattr(part, "__next__") else part


@spelled.register
def _(value: Tensor) -> Spelled:
    if value.is_meta:
        raise _Unreadable("weights that are not in memory (a tensor on the device 'meta')")
    if hasattr(value, "__tensor_flatten__"):
        names, rest = value.__tensor_flatten__()
        return "tensor", type(value), {name: getattr(value, name) for name in names}, rest
    if value.layout != torch.strided or value.is_quantized:
        value = value.dequantize() if value.is_quantized else value.to_dense()
    flat = value.detach().resolve_conj().resolve_neg().reshape(-1)
    digest = hashlib.blake2b(digest_size=32)
    for piece in flat.split(PIECE):
        plain = torch.empty(piece.shape, dtype=piece.dtype).copy_(piece) if piece.stride(0) != 1 else piece.cpu()
        digest.update(plain.view(torch.uint8).numpy().data)
    return "tensor", str(value.dtype), tuple(value.shape), digest.digest()


@spelled.register
def _(value: np.ndarray) -> Spelled:
    plain = value.tolist() if value.dtype.hasobject else value.tobytes()
    return "array", value.dtype.str, value.shape, plain


@spelled.register
def _(value: nn.Module) -> Spelled:
    """Structure, settings, weights, and what others have hung on it; hooks of libraries follow from these."""
    parts = dict(value.named_modules())
    hung = [
        [one for one in chain(part._forward_pre_hooks.values(), part._forward_hooks.values(), _own_forward(part))
         if not _in_library(getattr(one, "func", one).__module__)]
        for part in parts.values()
    ]  # fmt: skip
    weights = chain(value.named_parameters(remove_duplicate=False), value.named_buffers(remove_duplicate=False))
    return (
        "module",
        [(name, type(part), part.extra_repr(), _numbers(part), _settings(part)) for name, part in parts.items()],
        [(name, _offloaded(parts, name) if weight.is_meta else weight) for name, weight in weights],
        hung,
    )


def _offloaded(parts: Mapping[str, nn.Module], name: str) -> Any:
    """A weight that accelerate brings when a module around it runs, read where it waits."""
    words = name.split(".")
    for cut in range(len(words) - 1, -1, -1):
        hook: Any = getattr(parts[".".join(words[:cut])], "_hf_hook", None)
        waiting = getattr(hook, "weights_map", None)
        if waiting is not None:
            return waiting[".".join(words[cut:])]
    raise _Unreadable("weights that are not in memory (a tensor on the device 'meta')")


def _own_forward(part: nn.Module) -> list[Any]:
    return [vars(part)["forward"]] if "forward" in vars(part) else []


def _numbers(part: nn.Module) -> dict[str, Any]:
    """The numbers and flags it computes by: a scale, a window, an epsilon, whether it trains."""
    return {
        name: entry
        for name, entry in vars(part).items()
        if isinstance(entry, bool | int | float) and not name.startswith("_") and name != "gradient_checkpointing"
    }


def _settings(part: Any) -> object:
    """The config of a model or of a part of a pipeline, with the attention it asks for, without where it was found."""
    config = getattr(part, "config", None)
    if isinstance(config, Mapping):
        return {name: entry for name, entry in config.items() if not name.startswith("_")}
    if config is None or not hasattr(part, "config_class"):
        return None
    return _bare(config.to_dict()), getattr(config, "_attn_implementation", None)


def _bare(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without what saving and opening again write into a config; the class and the weights say that themselves."""
    return {
        name: _bare(entry) if isinstance(entry, Mapping) else entry
        for name, entry in settings.items()
        if name not in WRITTEN
    }


def _model(engine: Engine) -> Spelled:
    """The module, or the components of a pipeline: modules whole, schedulers by their settings, without their clock."""
    module = engine.module
    parts = {"": module, "tokenizer": engine.tokenizer} if engine.pipeline is None else module.components
    for name, part in parts.items():
        plain = not isinstance(part, nn.Module) and isinstance(getattr(part, "config", None), Mapping)
        yield from (name, (type(part), _settings(part)) if plain else part)
    if engine.dictionaries:
        yield from ("dictionaries", engine.dictionaries)


@spelled.register
def _(value: Run) -> Spelled:
    return "run", mapped(value.outputs, lambda tensor: tensor), dict(value.activations)


@spelled.register(Mapping)
def _(value: Mapping[Any, Any]) -> Spelled:
    return "mapping", type(value), _Unordered(value.items())


@spelled.register(set)
@spelled.register(frozenset)
def _(value: Iterable[object]) -> Spelled:
    return "set", type(value), _Unordered(value)


@spelled.register(list)
@spelled.register(tuple)
def _(value: Iterable[object]) -> Spelled:
    return "sequence", type(value), *value


@spelled.register
def _(value: _Unordered) -> Spelled:
    return value


@spelled.register
def _(value: Enum) -> Spelled:
    return "member", type(value), value.name


# --- what computes ----------------------------------------------------------------------------------------------------


@spelled.register
def _(value: FunctionType) -> Spelled:
    if _by_name(value):
        return "function", value.__module__, value.__qualname__
    taken = {name: value.__globals__[name] for name in _globals(value.__code__) if name in value.__globals__}
    return (
        "function", value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__,
        value.__closure__, taken,
    )  # fmt: skip


@spelled.register
def _(value: CellType) -> Spelled:
    try:
        return "cell", value.cell_contents
    except ValueError:  # not filled yet
        return ("cell",)


@spelled.register
def _(value: CodeType) -> Spelled:
    """What it does, not where it stands: no lines, no file."""
    taken = value.co_varnames[: value.co_argcount + value.co_kwonlyargcount]
    return (
        "code", value.co_code, value.co_consts, value.co_names, taken, value.co_freevars, value.co_flags,
        value.co_exceptiontable,
    )  # fmt: skip


@spelled.register
def _(value: MethodType) -> Spelled:
    return "method", value.__self__, value.__func__


@spelled.register
def _(value: BuiltinFunctionType) -> Spelled:
    of = value.__self__
    return "builtin", value.__module__, value.__qualname__, None if isinstance(of, ModuleType) else of


@spelled.register
def _(value: ModuleType) -> Spelled:
    if _in_library(value.__name__):
        return "file", value.__name__
    if not getattr(value, "__file__", None):
        raise _Unreadable(f"the module '{value.__name__}', which has no file")
    return "file", value.__name__, Path(str(value.__file__)).read_bytes()


@spelled.register
def _(value: type) -> Spelled:
    """A library's class by its name; any other with what it computes by and the constants it holds."""
    if _by_name(value):
        return "class", value.__module__, value.__qualname__
    held: dict[str, object] = {}
    for name, member in vars(value).items():
        inner = getattr(member, "__func__", getattr(member, "func", member))
        inner = (member.fget, member.fset) if isinstance(member, property) else inner
        constant = not name.startswith("__") and isinstance(inner, (*ATOMS, Tensor, np.ndarray, list, dict, set, tuple))
        if name not in vars(object) and (constant or isinstance(inner, FunctionType) or isinstance(member, property)):
            held[name] = inner
    return "class", value.__module__, value.__qualname__, value.__bases__, held


def _globals(code: CodeType) -> list[str]:
    """The names a piece of code, and the code inside it, looks up in its file."""
    here = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inside = (_globals(part) for part in code.co_consts if isinstance(part, CodeType))
    return list(dict.fromkeys(chain(here, *inside)))


def _by_name(value: Any) -> bool:
    """Whether a class or function is found under its name in an installed library."""
    if not _in_library(value.__module__):
        return False
    found: Any = sys.modules.get(value.__module__)
    for word in value.__qualname__.split("."):
        found = getattr(found, word, None)
    return found is value


@functools.cache
def _in_library(name: str | None) -> bool:
    """Whether a module comes with Python, with this package or with an installed one."""
    top = (name or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == "cutaway":
        return True
    module = sys.modules.get(top)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places if place)
