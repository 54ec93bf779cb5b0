"""cutaway opens any multi-modal model: name its parts, watch them, change them, and see what follows.

import cutaway
model = cutaway.load("tiny:clip")
run = model.run(model.inputs(image=picture, text="a red dog"), record="vision.*.resid_post")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from cutaway.model.edits import Ablate, Add, Bend, Edit, Knockout, Patch, Project, Scale, Set
    from cutaway.model.load import load
    from cutaway.model.model import Model
    from cutaway.model.run import Run
    from cutaway.model.sites import Site
    from cutaway.model.tokens import TokenMap, Where

_HOMES = {
    "cutaway.model.edits": ("Ablate", "Add", "Bend", "Edit", "Knockout", "Patch", "Project", "Scale", "Set"),
    "cutaway.model.load": ("load",),
    "cutaway.model.model": ("Model",),
    "cutaway.model.run": ("Run",),
    "cutaway.model.sites": ("Site",),
    "cutaway.model.tokens": ("TokenMap", "Where"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = {"atlas": "cutaway.atlas", "store": "cutaway.store", "targets": "cutaway.model.targets"}
__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for: `import cutaway` itself loads nothing heavy."""
    import importlib

    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cutaway' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
