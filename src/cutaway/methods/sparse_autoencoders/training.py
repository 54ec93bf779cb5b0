"""One trainer for all dictionaries: seeded, stopped at any moment, gone on with bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder
from cutaway.methods.sparse_autoencoders.feeding import feed_of
from cutaway.methods.sparse_autoencoders.learning import Learning
from cutaway.methods.sparse_autoencoders.recipe import Recipe
from cutaway.methods.sparse_autoencoders.shape import Shape, shaped
from cutaway.model.model import Model
from cutaway.questions.rows import tracked
from cutaway.store.files import only_writer
from cutaway.store.fitted import Origin

if TYPE_CHECKING:
    import pandas


class Trained(NamedTuple):
    """A dictionary, and how it came about: a row every so many steps.

    `loss` all of it, `error` the squared error a row, both in units where rows have a mean square of d; `explained`
    1 - error / variance of the target, of that batch; `on` features a row; `alive` the share of features that were on
    within `dead_after` steps.
    """

    dictionary: SparseAutoencoder | Crosscoder
    log: pandas.DataFrame


def train(
    source: Any, site: str | Sequence[str], architecture: str | Shape = "batch_topk", *, width: int | None = None,
    target: str | None = None, recipe: Recipe | None = None, model: Model | None = None, on: Origin | None = None,
    y: Float[Tensor, "n d_out"] | None = None, kind: Any = None, step: Any = None,
    points: Float[Tensor, "point d"] | None = None, sizes: Sequence[int] = (),
    feed: Mapping[str, Any] | None = None, folder: str | Path | None = None, device: str = "cpu",
    progress: bool = True, **more: Any,
) -> Trained:  # fmt: skip
    """Learn a dictionary of the rows of a site.

    `source`: a `Store`, a tensor of rows (with `kind` and `step` of each, where these are told apart), or data that
    `model` runs on as the training goes on; `feed` has more for it (of a store `where`, `buffer`; of a model `items`,
    `together`, `asked`, `how`). Several sites make a crosscoder (of a tensor: their rows behind one another, `sizes`
    long), a `target` a transcoder. `architecture`: a name of `shape.ARCHITECTURES` or a `Shape`; `more` are fields of
    it (`k`, `skip`, `groups`, …) and of the `recipe` (`steps`, `batch`, …). `points`: rows for an archetypal one, else
    drawn.
    With a `folder` the training is saved there and taken up by the same call, to the same weights bit for bit.

    Equations: `reading` and `stepping`, with their sources. Units: those of the rows. Raises MethodError for rows and
    shapes that do not fit, StoreError for a folder of another training.

    What it can NOT tell: that features are what the model computes with; another seed finds others, and a dictionary
    of rows with nothing in common explains some of their variance too.

    >>> import torch
    >>> rows = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    >>> made = train(rows, "vision.1.resid_post", "topk", width=32, k=4, steps=60, batch=128, progress=False)
    >>> made.dictionary
    SparseAutoencoder(32 features, topk, k 4 at vision.1.resid_post of 'nothing')
    >>> bool(made.log["explained"].iloc[-1] > 0.3)
    True
    """
    how, changes = _split(recipe or Recipe(), more)
    shape = shaped(architecture, width, **changes)
    read = (site,) if isinstance(site, str) else tuple(site)
    goal = None if target is None or read == (target,) else target
    if len(read) > 1 and goal is not None:
        raise MethodError(
            f"a crosscoder of {len(read)} sites with a target", expected="several sites, or a target",
            do="train a transcoder of each site",
        )  # fmt: skip
    found = feed_of(source, read, goal, model=model, on=on, y=y, kind=kind, step=step, sizes=sizes, **(feed or {}))
    learning = Learning(found, shape, how, read, goal, points, device)
    with ExitStack() as held:
        where = None if folder is None else Path(folder)
        if where is not None:
            where.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_writer(where))
        learning.begin(where)
        for _ in tracked(learning.steps(where), "training", how.steps - learning.done, show=progress):
            pass
    return Trained(learning.dictionary(), learning.table())


def _split(recipe: Recipe, more: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Options of the recipe, and those of the shape."""
    known, others = ({one.name for one in fields(cls)} for cls in (Recipe, Shape))
    odd = next((name for name in more if name not in known | others), None)
    if odd is not None:
        raise MethodError(
            f"there is no option '{odd}'", expected="a field of `Shape` or of `Recipe`",
            exists=", ".join(sorted(known | others)), do="name one",
        )  # fmt: skip
    mine = {name: value for name, value in more.items() if name in known}
    return replace(recipe, **mine), {name: value for name, value in more.items() if name not in known}
