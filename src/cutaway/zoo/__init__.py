"""Small models that need no download: tiny random ones for tests, trained ones for demonstrations."""

from __future__ import annotations

KINDS = ("tiny", "zoo")


def parted(name: str) -> tuple[str, str]:
    """A name in two: the kind in front of its colon, one of `KINDS`, and the rest; of any other name "" and all of it.

    >>> parted("zoo:emoji-clip@untrained"), parted("openai/clip-vit-base-patch32")
    (('zoo', 'emoji-clip@untrained'), ('', 'openai/clip-vit-base-patch32'))
    """
    kind, _, rest = name.partition(":")
    return (kind, rest) if kind in KINDS else ("", name)
