"""What is kept of many activations: a store on disk, reducers that see each batch once, what a training leaves behind.

from cutaway import store
kept = store.harvest(model, store.Scenes(1000), "vision.*.resid_post", "runs/scenes")
kept = store.open("runs/scenes")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.store.harvesting import Estimate, estimate, harvest
    from cutaway.store.sources import Dataset, Lines, Pictures, Scenes, read_data
    from cutaway.store.stored import Batch, Index, Store, open

_HOMES = {
    "harvesting": ("Estimate", "estimate", "harvest"),
    "sources": ("Dataset", "Lines", "Pictures", "Scenes", "read_data"),
    "stored": ("Batch", "Index", "Store", "open"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "Batch",
    "Dataset",
    "Estimate",
    "Index",
    "Lines",
    "Pictures",
    "Scenes",
    "Store",
    "estimate",
    "harvest",
    "open",
    "read_data",
]


def __getattr__(name: str) -> Any:
    """Import the home of a name when it is first asked for."""
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"cutaway.store.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'cutaway.store' has no attribute {name!r}; it has {', '.join(sorted(_LAZY))}")
