"""What can go wrong, said in four parts: what failed, what was expected, what exists, what to do.

CutawayError
├── SiteError      a site or pattern that names nothing, or cannot be read or written here   (also a KeyError)
├── EditError      an edit that does not fit its site                                        (also a ValueError)
├── InputError     a picture, text or tensor the model cannot take                           (also a ValueError)
├── TargetError    a target that cannot be read off this run                                 (also a ValueError)
├── LoadError      a source that is not a model we can open                                  (also a ValueError)
├── MethodError    options or data that a method cannot work with                            (also a ValueError)
└── StoreError     something kept that cannot be written, read or used here                  (also a ValueError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR = 5


class CutawayError(Exception):
    """Base of every error this package raises on purpose; prints its four parts as sentences."""

    def __init__(self, failed: str, *, expected: str = "", exists: str = "", do: str = "") -> None:
        self.failed, self.expected, self.exists, self.do = failed, expected, exists, do
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = (
            self.failed,
            self.expected and f"Expected: {self.expected}",
            self.exists and f"Available: {self.exists}",
        )
        said = [part.rstrip(".") + "." for part in (*parts, self.do) if part]
        return " ".join(part[0].upper() + part[1:] for part in said)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.failed, self.expected, self.exists, self.do)


class SiteError(CutawayError, KeyError):
    """A site or pattern that names nothing, or that cannot be read or written here."""


class EditError(CutawayError, ValueError):
    """An edit that does not fit its site."""


class InputError(CutawayError, ValueError):
    """A picture, text or tensor the model cannot take."""


class TargetError(CutawayError, ValueError):
    """A target that cannot be read off this run."""


class LoadError(CutawayError, ValueError):
    """A source that is not a model we can open."""


class MethodError(CutawayError, ValueError):
    """Options or data that a method cannot work with."""


class StoreError(CutawayError, ValueError):
    """Something kept that cannot be written, read or used here."""


def near(word: str, known: Iterable[str]) -> str:
    """At most five known names closest to `word`, as text; the first five when nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=NEAR, cutoff=0.5) or known[:NEAR]
    more = f" and {len(known) - len(close)} more" if len(known) > len(close) else ""
    return ", ".join(close) + more if close else "nothing"


def _rebuild(kind: type[CutawayError], failed: str, expected: str, exists: str, do: str) -> CutawayError:
    return kind(failed, expected=expected, exists=exists, do=do)
