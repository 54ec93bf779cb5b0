"""Pieces of what a model learns, by the name of a tower, a site, a head or a layer: whose gradients are taken."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from cutaway.errors import SiteError, near
from cutaway.model.blocks import BLOCKS, TRANSPOSED
from cutaway.model.engine import Engine, Opened
from cutaway.model.linear import LINEARS
from cutaway.model.paths import child, has, linear_shape
from cutaway.model.seats import is_rms
from cutaway.model.sites import Site
from cutaway.model.table import Attn

HEAD = re.compile(r"(?P<layer>[a-z_0-9]+\.\d+\.(?:attn|cross))\[(?P<head>\d+)\]")
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, order=True)
class Piece:
    """Some rows and columns, from and to, of the matrix that a layer learns.

    The matrix of a linear layer is (out, in), of a convolution (out, in × height × width), of a table of words (word,
    width). A bias is its last column. A norm has its gain as one column, and its bias as a second.
    """

    layer: str
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


def layers(engine: Engine) -> dict[str, nn.Module]:
    """Every layer whose gradients are known item by item, by its path (in a pipeline that of its part in front).

    Of layers that share a weight the first.
    """
    found: dict[str, nn.Module] = {}
    known: set[int] = set()
    for root, module in engine.roots.items():
        front = f"{root}." if engine.pipeline is not None else ""
        for name, one in module.named_modules():
            weight = id(getattr(one, "weight", None))
            if matrix_shape(one) and weight not in known:
                known.add(weight)
                found[f"{front}{name}"] = one
    return found


def sharing(engine: Engine) -> dict[int, list[nn.Module]]:
    """The layers that use each weight, by its identity: a table of words may be the unembedding as well."""
    found: dict[int, list[nn.Module]] = {}
    for root in engine.roots.values():
        for one in root.modules():
            if matrix_shape(one):
                found.setdefault(id(one.weight), []).append(one)
    return found


def _paths(engine: Engine) -> dict[int, str]:
    """The path of each layer by the identity of its module, that of the first where a weight is shared."""
    every, shared = layers(engine), sharing(engine)
    return {id(one): path for path, first in every.items() for one in shared[id(first.weight)]}


def matrix_shape(module: Any) -> tuple[int, int] | None:
    """Rows and columns of what a layer learns; None of a layer of another kind, or one that learns nothing."""
    weight, kind = getattr(module, "weight", None), type(module)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        return None
    bias = getattr(module, "bias", None) is not None
    if is_norm(module):
        return (weight.numel(), 1 + bias) if weight.dim() == 1 else None
    if f"{kind.__module__}.{kind.__qualname__}" in LINEARS:
        size = linear_shape(module)
        return None if size is None else (size[1], size[0] + bias)
    if kind is nn.Conv2d and module.groups == 1 and (module.padding_mode, type(module.padding)) == ("zeros", tuple):
        return weight.shape[0], weight[0].numel() + bias
    plain = kind is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq
    return (weight.shape[0], weight.shape[1]) if plain else None


def is_norm(module: Any) -> bool:
    """Whether a layer divides by a length and multiplies by a gain; RMS norms have a class in each library."""
    weight = getattr(module, "weight", None)
    return isinstance(module, NORMS) or (is_rms(module) and isinstance(weight, nn.Parameter) and weight.dim() == 1)


def pieces(model: Opened, names: str | Iterable[str] = "") -> tuple[Piece, ...]:
    """The pieces of weights that these names stand for, each once.

    A name is a tower (`text`), a site or pattern (`text.3.mlp.out`, `vision.*.attn.q`: the layers that write or read
    there), a head (`vision.2.attn[3]`: its rows of the query, key and value projections and its columns of the output
    projection), or a pattern of layers by their paths (`*.lora_B.*`). Nothing: all that learns, of a pipeline all of
    its denoiser. Weights that lie in no layer of a known kind (class tokens, tables of positions that are added, a
    temperature) are in no piece; `share` says how much that is.
    Raises SiteError for a name that stands for no weight.

    >>> import cutaway
    >>> model = cutaway.load("tiny:clip")
    >>> [(one.layer.split(".")[-1], one.shape) for one in pieces(model, "vision.0.attn[1]")]
    [('k_proj', (8, 33)), ('out_proj', (32, 8)), ('q_proj', (8, 33)), ('v_proj', (8, 33))]
    """
    engine = model.engine
    given = [names] if isinstance(names, str) else list(names)
    found: set[Piece] = set()
    for name in given:
        found |= set(_named(engine, name))
    whole = {(one.layer, side) for one in found for side in (0, 1) if one == _whole(engine, one.layer)}
    return tuple(sorted(one for one in found if (one.layer, 0) not in whole or one == _whole(engine, one.layer)))


def share(model: Opened, chosen: Sequence[Piece]) -> float:
    """The share of all numbers that the chosen pieces hold; of a pipeline of its denoiser's.

    >>> import cutaway
    >>> model = cutaway.load("tiny:clip")
    >>> round(share(model, pieces(model)), 4)
    0.9995
    """
    engine = model.engine
    module = engine.towers["denoiser"].module if engine.pipeline is not None else engine.module
    return sum(one.size for one in chosen) / sum(value.numel() for value in module.parameters())


def elsewhere(model: Opened, chosen: Sequence[Piece], *, seed: int = 0) -> tuple[Piece, ...]:
    """As many other pieces of the same shapes, each at a random place of the model: what a choice is held against.

    A piece of r × c numbers becomes r × c neighbouring numbers of a random layer that is as large, at a random place.
    Layers without a chosen piece are taken where there are such.

    >>> import cutaway
    >>> model = cutaway.load("tiny:clip")
    >>> head = pieces(model, "vision.0.attn[1]")
    >>> [one.shape for one in elsewhere(model, head)] == [one.shape for one in head]
    True
    """
    dice = random.Random(seed)
    own = {one.layer for one in chosen}
    places, found = pieces(model), []
    for piece in chosen:
        fit = [one for one in places if all(a >= b for a, b in zip(one.shape, piece.shape, strict=True))]
        layer = dice.choice([one for one in fit if one.layer not in own] or fit)
        row, column = (dice.randrange(a - b + 1) for a, b in zip(layer.shape, piece.shape, strict=True))
        rows, columns = (row, row + piece.shape[0]), (column, column + piece.shape[1])
        found.append(Piece(layer.layer, rows, columns))
    return tuple(found)


def _whole(engine: Engine, layer: str) -> Piece:
    shape = matrix_shape(layers(engine)[layer])
    assert shape is not None
    return Piece(layer, (0, shape[0]), (0, shape[1]))


def _named(engine: Engine, name: str) -> list[Piece]:
    """The pieces of one name."""
    every = layers(engine)
    by_module = _paths(engine)
    if head := HEAD.fullmatch(name):
        return _head(engine, head["layer"], int(head["head"]), by_module)
    if not name:
        root: Any = engine.towers["denoiser"].module if engine.pipeline is not None else engine.module
        return [_whole(engine, by_module[id(one)]) for one in root.modules() if id(one) in by_module]
    if name in engine.towers:
        inside = engine.towers[name].module.modules()
        return [_whole(engine, by_module[id(one)]) for one in inside if id(one) in by_module]
    if any(fnmatchcase(path, name) for path in every):
        return [_whole(engine, path) for path in every if fnmatchcase(path, name)]
    found: list[Piece] = []
    for site in engine.sites.select(name):
        found += [_whole(engine, by_module[id(one)]) for one in _at(engine, site) if id(one) in by_module]
    if not found:
        raise SiteError(
            f"no weights lie at '{name}'", expected="a tower, a site where a layer writes or reads, a head or a layer",
            exists=near(name, [*engine.towers, *every]), do="name the part that writes there: `text.3.mlp.out`, say",
        )  # fmt: skip
    return found


def _at(engine: Engine, site: Site) -> Iterable[nn.Module]:
    """The modules that write or read at a site."""
    part = site.part.rpartition(".")[2]
    if "resid" in site.part:
        return ()
    if part in ("q", "k", "v", "scores", "pattern"):
        made = _projections(engine, site)
        return [made[one] for one in ("q", "k", "v") if one in made and (one == part or part in ("scores", "pattern"))]
    module = engine.seat(site).module
    if matrix_shape(module):
        return (module,)
    inner = {"attn.out": "attn.z", "cross.out": "cross.z", "mlp.out": "mlp.post"}.get(site.part)
    layer = f"{site.tower}.{site.layer}.{inner}"
    if inner and layer in engine.sites and matrix_shape(engine.seat(layer).module):
        return (engine.seat(layer).module,)
    return module.modules()


def _projections(engine: Engine, site: Site) -> dict[str, nn.Module]:
    """The layers that make queries, keys and values, where each is one of its own."""
    block = engine.towers[site.tower].blocks[site.layer or 0]
    row = BLOCKS.get(type(block).__name__)
    attention: Attn | None = None if row is None else row.cross if site.part.startswith("cross.") else row.attn
    if attention is None:
        return {}
    for path in (attention.v or f"{attention.path}.v_proj", f"{attention.path}.to_v".lstrip(".")):
        names = {part: path[:-1] + part if path.endswith("to_v") else path.replace("v_proj", f"{part}_proj")
                 for part in ("q", "k", "v")}  # fmt: skip
        if len(set(names.values())) == 3 and all(has(block, one) for one in names.values()):
            return {part: child(block, one, one) for part, one in names.items()}
    return {}


def _head(engine: Engine, layer: str, head: int, by_module: dict[int, str]) -> list[Piece]:
    """Rows of a head's projections, and its columns of the projection behind it."""
    z = engine.sites.one(f"{layer}.z")
    heads, wide = z.sizes["head"], z.sizes["d_head"]
    made, out = _projections(engine, z), engine.seat(z).module
    if not made or any(id(one) not in by_module or type(one).__name__ in TRANSPOSED for one in (*made.values(), out)):
        raise SiteError(
            f"it is not known which rows of a layer belong to the heads of '{layer}'", exists=f"'{layer}.z'",
            expected="a layer each for queries, keys and values", do="name the sites of the layer instead",
        )  # fmt: skip
    if not 0 <= head < heads:
        raise SiteError(f"no head {head} in '{layer}'", expected=f"0 to {heads - 1}")
    found = []
    for module in made.values():
        whole = _whole(engine, by_module[id(module)])
        own = head * (whole.shape[0] // wide) // heads  # several heads may share keys and values
        found.append(Piece(whole.layer, (own * wide, (own + 1) * wide), whole.columns))
    whole = _whole(engine, by_module[id(out)])
    return [*found, Piece(whole.layer, whole.rows, (head * wide, (head + 1) * wide))]
