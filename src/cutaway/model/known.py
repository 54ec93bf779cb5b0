"""What a clean run leaves behind: when each module ran, what it gave, and the decoder's key/value cache.

Whatever had finished before an edited module started does not depend on the edit: a replay gives it back from here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import InputError
from cutaway.model.seats import Seat, Tower

# What towers take in which the rows of the batch are known to lie, each along its axis of `in_rows`.
ROWS = frozenset({
    "attention_mask", "bool_masked_pos", "cache_position", "encoder_attention_mask", "encoder_hidden_states",
    "input_features", "input_ids", "inputs_embeds", "pixel_values", "position_ids", "token_type_ids",
})  # fmt: skip
# What denoisers take beside: the same of their rows; what is not in this list is the same for all.
DENOISED = frozenset({
    "added_cond_kwargs", "class_labels", "guidance", "hidden_states", "img_ids", "pooled_projections", "sample",
    "timestep", "txt_ids",
})  # fmt: skip
SHARED = ("cache_position", "img_ids", "txt_ids")


@dataclass
class Call:
    """One call of one module in the clean run: when it began and ended, what it returned (None: not kept)."""

    began: int
    ended: int = -1
    output: Any = None


@dataclass
class Known:
    """The calls of a clean run by module, the arguments of each tower, the caches of causal towers."""

    calls: dict[int, list[Call]] = field(default_factory=dict)
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    caches: dict[str, Any] = field(default_factory=dict)
    outputs: Any = None
    changed: list[str] = field(default_factory=list)  # modules of which a hook that is not ours changed something

    def began(self, module: nn.Module, call: int = 0) -> int:
        """When a call of a module began; -1 if it never ran."""
        found = self.calls.get(id(module), [])
        return found[call].began if call < len(found) else -1

    def ended(self, module: nn.Module, call: int = 0) -> int:
        """When a call of a module ended; -1 if it never ran."""
        found = self.calls.get(id(module), [])
        return found[call].ended if call < len(found) else -1

    def bytes(self) -> int:
        """Memory of everything that is kept."""
        return sum(
            t.numel() * t.element_size() for c in self.calls.values() for call in c for t in tensors(call.output)
        )


@contextmanager
def watching(
    known: Known,
    units: Mapping[int, nn.Module],
    seats: list[Seat],
    towers: list[Tower],
    keep: Callable[[nn.Module, int], bool],
    hooked: Mapping[str, nn.Module],
) -> Iterator[None]:
    """Note the calls of units and seats into `known`; keep a unit's output where `keep(module, call)` says so.

    What is kept is what `forward` gave: hooks of others act on it again when it is given back.
    """
    clock = iter(range(1 << 60))

    def enter(module: nn.Module, *_: Any) -> None:
        known.calls.setdefault(id(module), []).append(Call(next(clock)))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = next(c for c in reversed(known.calls[id(module)]) if c.ended < 0)
        call.ended = next(clock)
        if id(module) in units and keep(module, len(known.calls[id(module)]) - 1):
            call.output = mapped(output, torch.clone)  # libraries write into what a module returned

    with _judging(known, hooked), ExitStack() as stack:
        for module in {**units, **{id(seat.module): seat.module for seat in seats}}.values():
            stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(leave, prepend=True).remove)
        for tower in towers:
            stack.callback(_caching(known, tower).remove)
        yield


def hooked(roots: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules on which hooks lie that are not ours, by name."""
    named = {f"{at}.{name}".strip("."): module for at, root in roots.items() for name, module in root.named_modules()}
    return {name: module for name, module in named.items() if any(map(_foreign, _hooks(module)))}


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def _foreign(hook: Any) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith("cutaway.")


@contextmanager
def _judging(known: Known, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Note which of these modules have hooks that change what enters or leaves: in place, or by what they return."""

    def state(*values: Any) -> list[tuple[Tensor, int]]:
        return [(t, 0 if t.is_inference() else t._version) for t in tensors(list(values))]

    def watch(name: str, module: nn.Module) -> Iterator[Any]:
        before: list[list[tuple[Tensor, int]]] = []

        def first(module: nn.Module, *values: Any) -> None:
            before.append(state(*values))

        def last(module: nn.Module, *values: Any) -> None:
            now = state(*values)
            if [(id(t), n) for t, n in now] != [(id(t), n) for t, n in before.pop()]:
                known.changed.append(name)

        for at_front, hook in ((True, first), (False, last)):
            yield module.register_forward_pre_hook(hook, with_kwargs=True, prepend=at_front)
            yield module.register_forward_hook(lambda m, _, out, hook=hook: hook(m, out), prepend=at_front)

    with ExitStack() as stack:
        for name, module in modules.items():
            for handle in watch(name, module):
                stack.callback(handle.remove)
        yield


def _caching(known: Known, tower: Tower) -> Any:
    """Note a tower's arguments; give a decoder that can cache a cache to fill."""
    names = parameters(tower.module)

    def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if tower.name in known.arguments:  # a second call: nothing to resume from
            known.caches.pop(tower.name, None)
            return None
        if len(args) <= len(names):  # every argument by its name
            args, kwargs = (), {**dict(zip(names, args, strict=False)), **kwargs}
        if tower.causal and "past_key_values" in names and kwargs.get("past_key_values") is None:
            from cutaway.model.prefix import fresh

            cache = known.caches[tower.name] = fresh(kwargs.get("encoder_hidden_states") is not None)
            kwargs = {**kwargs, "past_key_values": cache, "use_cache": True}
        known.arguments[tower.name] = (args, kwargs)
        return args, kwargs

    return tower.module.register_forward_pre_hook(start, with_kwargs=True, prepend=True)


@contextmanager
def replaying(
    known: Known,
    towers: Mapping[int, Tower],
    units: Mapping[int, nn.Module],
    before: Callable[[nn.Module], int],
    change: Callable[[nn.Module, Any], Any],
) -> Iterator[None]:
    """Let units give back what they gave in the clean run, for calls that ended before `before(unit)`.

    `change(unit, output)` fits it to the rows of the replay. Blocks count the calls of their tower, so that a skipped
    tower does not put them out of step.
    """
    counts: dict[int, int] = {}
    plain: list[tuple[nn.Module, Any]] = []

    def stand_in(unit: nn.Module) -> Callable[..., Any]:
        own, tower, calls, until = unit.forward, towers.get(id(unit)), known.calls[id(unit)], before(unit)

        @wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if tower is not None and tower.module is unit:
                counts[id(unit)] = counts.get(id(unit), -1) + 1
            at = counts.get(id(tower.module), 0) if tower is not None else 0
            if at < len(calls) and 0 <= calls[at].ended < until and calls[at].output is not None:
                return change(unit, calls[at].output)
            return own(*args, **kwargs)

        return forward

    try:
        for unit in units.values():
            if id(unit) in known.calls:
                plain.append((unit, vars(unit).get("forward")))
                unit.forward = stand_in(unit)
        yield
    finally:
        for unit, own in plain:
            if own is None:
                del unit.forward
            else:
                unit.forward = own


@contextmanager
def last_only(module: nn.Module | None) -> Iterator[None]:
    """Let a module that works on each position alone work on the last one only; the others get zeros."""
    if module is None:
        yield
        return
    own, plain = module.forward, vars(module).get("forward")

    @wraps(own)
    def forward(entering: Tensor, *args: Any, **kwargs: Any) -> Any:
        if entering.dim() != 3:
            return own(entering, *args, **kwargs)
        left = own(entering[:, -1:], *args, **kwargs)
        return nn.functional.pad(left, (0, 0, entering.shape[1] - 1, 0))

    try:
        module.forward = forward
        yield
    finally:
        if plain is None:
            del module.forward
        else:
            module.forward = plain


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A nested output with every tensor changed; anything else stays, caches are dropped."""
    if isinstance(value, Tensor):
        return change(value)
    if hasattr(value, "to_tuple"):  # a `ModelOutput`
        return type(value)(**{key: mapped(entry, change) for key, entry in entries(value).items()})
    if isinstance(value, dict):
        return {key: mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, change) for entry in value)
    return value


def parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of what a module's class takes, in order; other tools may have put something before its forward."""
    return _positional(type(module).forward)


@lru_cache(maxsize=256)
def _positional(forward: Callable[..., Any]) -> tuple[str, ...]:
    found = inspect.signature(forward).parameters
    return tuple(name for name, one in found.items() if one.kind is one.POSITIONAL_OR_KEYWORD)[1:]


def entries(output: Any) -> dict[str, Any]:
    """The fields of a `ModelOutput`, those that are None as well, without the cache."""
    found = {item.name: getattr(output, item.name) for item in fields(output)}
    return {name: value for name, value in found.items() if name != "past_key_values"}


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of a nested output, caches aside."""
    found: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, add)
    return found


def repeated(value: Tensor, n: int, axis: int = 0) -> Tensor:
    """N copies behind one another along an axis, as fresh memory."""
    sizes = [1] * value.dim()
    if value.dim():
        sizes[axis] = n
    return value.repeat(sizes) if value.dim() else torch.clone(value)


def in_rows(name: str, value: Tensor, n: int, rows: int) -> Tensor:
    """N times the rows of an argument, by its name: its size says nothing, as any other axis may be as long.

    Positions lie (row, token), (part, row, token) or (token); they and masks may have one row for all.
    """
    if value.dim() == 0 or name in SHARED or (name == "position_ids" and value.dim() == 1):
        return value
    axis = value.dim() - 2 if name == "position_ids" else 0
    if name in ("position_ids", "attention_mask") and value.shape[axis] == 1 < rows:
        return value
    return repeated(value, n, axis)


def in_rows_all(given: Mapping[str, Any], n: int, rows: int) -> dict[str, Any]:
    """N times the rows of all arguments, in dictionaries among them too; what is no tensor stays."""

    def fit(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return in_rows_all(value, n, rows)
        return in_rows(name, value, n, rows) if isinstance(value, Tensor) else value

    return {name: fit(name, value) for name, value in given.items()}


def rows_joined(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of several arguments of one call behind one another, in dictionaries among them too.

    Raises InputError where they differ in a tensor that is one for all rows.
    """
    found: dict[str, Any] = {}
    for name, value in given[0].items():
        values = [one[name] for one in given]
        if isinstance(value, Mapping):
            found[name] = rows_joined(values)
        elif not isinstance(value, Tensor):
            found[name] = value
        elif value.dim() and name not in SHARED:
            found[name] = torch.cat(values, value.dim() - 2 if name == "position_ids" and value.dim() > 1 else 0)
        elif any(other.shape != value.shape or bool((other != value).any()) for other in values):
            raise InputError(
                f"these inputs differ in '{name}', which is one for all rows", expected="the same in each",
                do="run them one by one",
            )  # fmt: skip
        else:
            found[name] = value
    return found


def in_guidance(x: Tensor, n: int, rows: int) -> Tensor:
    """N copies of the rows of each guidance row, which lie behind one another in a batch."""
    return x.unflatten(0, (-1, 1, rows)).expand(-1, n, rows, *x.shape[1:]).flatten(0, 2)


def spread(x: Tensor, n: int) -> Tensor:
    """N copies behind one another; of a single row without copying."""
    return x.expand(n, *x.shape[1:]) if len(x) == 1 else repeated(x, n)
