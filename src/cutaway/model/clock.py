"""Where a tower is in its run: which rows and positions its present call holds, and where the prompt ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from jaxtyping import Bool
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.known import parameters
from cutaway.model.seats import Tower

ENTERING = ("input_ids", "inputs_embeds", "pixel_values", "input_features", "hidden_states", "sample")
CACHES = ("past_key_values", "cache_params")


class Clock:
    """The window of one tower: `length` positions behind `offset` earlier ones, in a batch of `rows`.

    `prompt`: how many positions the prompt has, from whose end negative positions count; what a cache holds when it
    first comes is part of it. While `writing` without a cache every call begins at 0, and the first one is the prompt.
    `dropped`: fewer rows than before, in one text. `mask`: where the call came with a mask over all positions so far,
    its ones. State-space caches do not count what they saw: it is counted here.
    """

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self.offset = self.length = self.prompt = self.calls = self._begun = 0
        self.rows = 1
        self.mask: Bool[Tensor, "row position"] | None = None
        self.ran = self.writing = self.dropped = False
        self._cache: ReferenceType[Any] | None = None
        self._names = parameters(tower.module)
        self._seen: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names."""
        return {**dict(zip(self._names, args, strict=False)), **kwargs}

    def begin_writing(self, prompt: int) -> None:
        """What follows is one text behind a prompt of this length; 0: the first call is its prompt."""
        self.writing, self.dropped, self.calls = True, False, 0
        self.prompt = self._begun = prompt if self.tower.causal else 0

    def end_writing(self) -> None:
        """What follows is a prompt again."""
        self.writing, self.dropped, self._begun = False, False, 0

    def start(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A call of the tower begins."""
        given = self.named(args, kwargs)
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.dim() > 0}
        name = next((name for name in (*ENTERING, *tensors) if name in tensors), None)
        if name is None:
            return
        cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
        ids = name in ("input_ids", "inputs_embeds")
        before, self.rows = self.rows, tensors[name].shape[0]
        self.dropped = self.writing and (self.dropped or (self.calls > 0 and self.rows < before))
        self.length = tensors[name].shape[1] if ids else self.rows if self.tower.packed else 0
        self.offset = self._before(cache) if self.tower.causal and cache is not None else 0
        known, self._cache = self._cache, None if cache is None else ref(cache)
        begins = not self.offset or not (self.writing or (known is not None and known() is cache))
        if begins and not self._begun and not (self.writing and cache is None and self.prompt):
            self.prompt = self.offset + self.length  # written without a cache, the text grows and the prompt stays
        self.calls, self.ran = self.calls + 1, True
        mask = tensors.get("attention_mask")
        whole = mask is not None and mask.dim() == 2 and mask.shape[1] == self.offset + self.length
        self.mask = mask.bool() if whole and mask is not None else None

    def stop(self, output: Any) -> None:
        """A call has ended: note how far its state-space cache now is."""
        if (cache := getattr(output, "cache_params", None)) is not None:
            self._seen[cache] = self.offset + self.length

    def _before(self, cache: Any) -> int:
        if cache in self._seen:
            return self._seen[cache]
        try:
            return int(cache.get_seq_length())
        except ValueError as error:  # state-space layers alone: they keep no positions
            if not cache.has_previous_state():
                return 0
            raise EditError(
                f"it is not known how many positions the state of '{self.tower.name}' has seen",
                expected="a run that begins with the prompt", do="begin the text inside this run, or pass no cache",
            ) from error  # fmt: skip

    def window(self, axis: str, size: int, *, inner: int, cached: bool, end: bool) -> int:
        """Where `size` entries of a position axis begin: queries at this call, keys so that they end with it.

        `inner`: what a packed tower attended to before. `end`: what a tower gives of its last positions only (logits).
        """
        if axis == "key" or cached:
            return inner if self.tower.packed else max(0, self.offset + self.length - size)
        return self.offset + inner + (max(0, self.length - size) if end else 0)
