"""The linear maps through which a denoiser reads its prompt: where what a word means to it can be changed."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.engine import Opened
from cutaway.model.linear import linear_map
from cutaway.model.paths import child, has
from cutaway.model.shift import weights


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map W c (+ b) of what a prompt's encoders say: its name, its weight's, the argument that holds c.

    One in a block has the name of the site that it gives (`denoiser.3.cross.v`), another that of its module.
    """

    name: str
    weight: str
    given: str
    matrix: Float[Tensor, "out d_in"]


def prompt_readers(model: Opened) -> tuple[Reader, ...]:
    """All of them, in order of execution: keys and values of cross-attention, or how a joint stream begins.

    What stands in front of them (adapters that project the prompt anew) and a second pooled prompt are no part of it.
    Raises SiteError for a model without any that is known, or of one that an adapter wraps.
    """
    engine = model.engine
    tower = engine.towers.get("denoiser")
    reads = tower.row.reads if tower else {}
    if tower is None or not reads:
        kind = type(tower.module if tower else engine.module).__name__
        raise SiteError(
            f"it is not known what reads a prompt in {kind}", expected="a denoiser that reads prompts",
            do="say which linear maps do (`reads=`) in its row of model/towers.py",
        )  # fmt: skip
    if getattr(tower.module, "encoder_hid_proj", None) is not None:
        raise SiteError(
            f"{type(tower.module).__name__} projects its prompt anew before it is read",
            expected="one that reads it as the encoders say it", do="take its image prompt off first",
        )  # fmt: skip
    named = {id(value): name for name, value in weights(engine).items()}
    order = {name: at for at, name in enumerate(named.values())}
    found = []
    for path, given in reads.items():
        part, _, inside = path.rpartition(" ")
        holders = [(f"denoiser.{at}.{part}", one) for at, one in enumerate(tower.blocks)] if part else []
        for name, holder in holders or [(f"denoiser.{inside}", tower.module)]:
            if has(holder, inside):
                found.append(_reader(named, name, child(holder, inside, name), given))
    return tuple(sorted(found, key=lambda one: order[one.weight]))


def _reader(named: dict[int, str], name: str, module: nn.Module, given: str) -> Reader:
    matrix, _ = linear_map(module, name)
    weight = named.get(id(getattr(module, "weight", None)))
    if weight is None or matrix.shape != module.weight.shape:
        raise SiteError(
            f"'{name}' has no weight of its own to change: it is a {type(module).__name__}", expected="a plain layer",
            do="merge the adapter first",
        )  # fmt: skip
    return Reader(name, weight, given, matrix)
