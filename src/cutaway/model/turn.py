"""One session at a time on a module: its hooks are seen by every thread that calls it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

from cutaway.errors import EditError

if TYPE_CHECKING:
    from cutaway.model.session import Session

_CHANGED = threading.Condition()
_TURNS: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()


class Turn:
    """Who uses a module now: a thread, how deep, and the session whose edits it holds (`model.edited`)."""

    def __init__(self) -> None:
        self.owner: int | None = None
        self.depth = 0
        self.held: Session | None = None


def turn_of(module: nn.Module) -> Turn:
    """The turn of a module, the same for every `Model` that wraps it."""
    with _CHANGED:
        return _TURNS.setdefault(module, Turn())


@contextmanager
def taken(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have these modules for this thread alone; waits for runs of other threads, refuses where edits are held there.

    Raises EditError where another thread is inside `model.edited`: it may be waiting for this one.
    """
    turns = [turn_of(module) for module in modules]
    me = threading.get_ident()
    with _CHANGED:
        while any(turn.owner not in (None, me) for turn in turns):
            if any(turn.held is not None and turn.owner != me for turn in turns):
                raise EditError(
                    "another thread holds edits on this model (`model.edited`)", expected="one session at a time",
                    do="run in that thread, inside its block, or load the model once more for this one",
                )  # fmt: skip
            _CHANGED.wait()
        for turn in turns:
            turn.owner, turn.depth = me, turn.depth + 1
    try:
        yield
    finally:
        with _CHANGED:
            for turn in turns:
                turn.depth -= 1
                turn.owner = me if turn.depth else None
            _CHANGED.notify_all()


@contextmanager
def holding(modules: Iterable[nn.Module], session: Session) -> Iterator[None]:
    """Let further sessions of this thread know that these edits are held around them."""
    turns = [turn_of(module) for module in modules]
    around = [turn.held for turn in turns]

    def hold(sessions: Iterable[Session | None]) -> None:
        with _CHANGED:
            for turn, one in zip(turns, sessions, strict=True):
                turn.held = one
            _CHANGED.notify_all()

    hold([session] * len(turns))
    try:
        yield
    finally:
        hold(around)
