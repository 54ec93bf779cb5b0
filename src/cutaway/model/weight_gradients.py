"""The gradient of a target with respect to weights, for each row of a batch, after one forward and one backward pass.

What a layer gets (x) and what the target's gradient is where it gives (d) are kept; the gradient of its matrix is then
a sum over positions of outer products, sum_t d_t x_t', row by row, and a projection of it is the same of projected
factors: no gradient of all weights need ever be there. No weight needs a gradient for that, and no hook is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm, unfold

from cutaway.errors import InputError, SiteError
from cutaway.model.engine import Engine, Opened
from cutaway.model.gradients import plain
from cutaway.model.inputs import Inputs
from cutaway.model.pieces import Piece, is_norm, layers, sharing
from cutaway.model.run import Run
from cutaway.model.seats import norm_scale
from cutaway.model.session import Recording
from cutaway.model.targets import numbers

Basis = Float[Tensor, "_ _"] | None


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer: what it got, the gradient at what it gave, the row of each entry of the batch."""

    module: Any
    got: Tensor
    slope: Tensor
    owner: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class WeightGradients:
    """`values`: the target of each row; `of(piece)`: its gradient with respect to a piece of the weights, by row.

    The gradient at a row is that of the sum of all rows' targets as far as it goes through this row: its own where rows
    do not see each other.
    """

    values: Float[Tensor, "row"]
    pieces: tuple[Piece, ...]
    calls: Mapping[str, list[Call]]

    def of(self, piece: Piece, left: Basis = None, right: Basis = None) -> Float[Tensor, "row rows columns"]:
        """L' G R for the gradient G of a piece, in single precision at least; without L or R that side is whole.

        A layer that was not called has a gradient of zero.
        """
        accurate = torch.promote_types(self.values.dtype, torch.float32)
        shape = [
            side if basis is None else basis.shape[1] for side, basis in zip(piece.shape, (left, right), strict=True)
        ]
        found = torch.zeros(len(self.values), *shape, dtype=accurate, device=self.values.device)
        for call in self.calls[piece.layer]:
            made = _product(call, piece, left, right, accurate)
            found.index_add_(0, torch.tensor(call.owner, device=found.device), made.to(found))
        return found

    def moments(
        self, piece: Piece
    ) -> tuple[Float[Tensor, "columns columns"], Float[Tensor, "rows rows"] | Float[Tensor, "rows"]]:
        """Sums over rows and positions of x x' and d d': the factors of a Kronecker-factored curvature.

        Positions that no gradient comes back to (padding, words behind the number) are left out of both.
        Of a norm, whose gradient is no outer product, G'G and GG'; of a table of words the second is its
        diagonal, also where it is the unembedding too.
        """
        accurate = torch.promote_types(self.values.dtype, torch.float32)
        size = piece.shape
        inner = torch.zeros(size[1], size[1], dtype=accurate, device=self.values.device)
        table = any(isinstance(call.module, nn.Embedding) for call in self.calls[piece.layer])
        outer = torch.zeros(size[0] if table else (size[0], size[0]), dtype=accurate, device=self.values.device)
        for call in self.calls[piece.layer]:
            if is_norm(call.module):
                whole = _of_norm(call, piece, accurate)
                inner += torch.einsum("boi,boj->ij", whole, whole)
                outer += torch.einsum("boi,bpi->op", whole, whole)
            elif isinstance(call.module, nn.Embedding):
                ids, slope = _words(call, piece, accurate)
                inner += torch.einsum("bti,btj->ij", slope, slope)
                reached = (ids < size[0]) & slope.ne(0).any(-1)
                outer += torch.bincount(ids[reached], minlength=size[0]).to(outer)
            else:
                slope, got = (part.flatten(0, 1) for part in _sides(call, piece, accurate))
                got = got[slope.ne(0).any(1)]
                inner += got.T @ got
                outer += slope.square().sum(0) if table else slope.T @ slope
        return inner, outer


def weight_gradients(
    model: Opened, inputs: Inputs, target: Callable[[Run], Tensor], chosen: Sequence[Piece]
) -> WeightGradients:
    """The gradient of a target with respect to pieces of the weights, of each row of the inputs.

    g_i = d target_i / d W. Rows must not see each other, as those of a batch do not unless a target couples them
    (`similarity(text=0)` of several pictures). A target of one row gets all that its inputs hold, several pictures and
    texts included. Gradients of models in half precision have its digits, summed in single precision.
    Raises InputError for a drawing of many steps, for a target that no chosen weight moves, and where a layer runs over
    rows that cannot be told apart (packed towers); SiteError for a layer that is not there.

    >>> import cutaway
    >>> from cutaway import targets
    >>> from cutaway.model.pieces import pieces
    >>> model = cutaway.load("tiny:llama")
    >>> (piece,) = pieces(model, "text.1.mlp.out")
    >>> made = weight_gradients(model, model.inputs(text=["a dog", "a cat"]), targets.log_prob("red"), [piece])
    >>> made.of(piece).shape
    torch.Size([2, 32, 64])
    """
    engine, inputs = model.engine, plain(inputs)
    if not inputs.call.differentiable:
        raise InputError(
            f"a whole {inputs.call} runs without gradients", expected="one evaluation of the denoiser",
            do="`model.inputs(prompt=…, step=3)` makes its inputs",
        )  # fmt: skip
    every, shared = layers(engine), sharing(engine)
    unknown = next((one.layer for one in chosen if one.layer not in every), None)
    if unknown is not None:
        raise SiteError(
            f"no layer '{unknown}' whose gradients are known", do="take pieces of this model: `pieces(model)`"
        )
    names = list(dict.fromkeys(one.layer for one in chosen))
    watched = {id(module): module for name in names for module in shared[id(every[name].weight)]}
    with engine.taken():
        session = engine.session(engine.bind(()), (), Recording(), inputs)
        with torch.inference_mode(False), torch.enable_grad(), session, _watching(engine, inputs, watched) as seen:
            outputs = inputs.call(engine.module, inputs.tensors)
        session.check()
    with torch.inference_mode(False), torch.enable_grad():
        values = numbers(target, engine.result(outputs, session, {}))
        if not values.requires_grad or not seen:
            raise InputError(
                "this target does not depend on any of these weights", exists=", ".join(names[:5]),
                expected="weights of parts that run on these inputs", do="name others (`weights=`)",
            )  # fmt: skip
        leaves = [one.leaf for one in seen]
        slopes = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
    calls = _calls(engine, inputs, seen, slopes, len(values))
    by_name = {
        name: [call for module in shared[id(every[name].weight)] for call in calls.get(id(module), ())]
        for name in names
    }  # fmt: skip
    return WeightGradients(values.detach(), tuple(chosen), by_name)


def _calls(
    engine: Engine, inputs: Inputs, seen: Sequence[_Seen], slopes: Sequence[Tensor], rows: int
) -> dict[int, list[Call]]:
    """The calls of each layer with the gradients at what they gave, by its identity."""
    calls: dict[int, list[Call]] = {}
    towers = _towers(engine)
    for one, slope in zip(seen, slopes, strict=True):
        if one.got._version != one.version:
            raise InputError(
                f"what a {type(one.module).__name__} got was overwritten before its gradient was there",
                expected="a model that keeps what its layers get", do="choose other weights, and report this",
            )  # fmt: skip
        owner = _owner(engine, inputs, towers.get(id(one.module), ""), one, rows)
        calls.setdefault(id(one.module), []).append(Call(one.module, one.got, slope, owner))
    return calls


# --- one pass ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seen:
    module: nn.Module
    got: Tensor
    version: int
    leaf: Tensor


@contextmanager
def _watching(engine: Engine, inputs: Inputs, watched: Mapping[int, nn.Module]) -> Iterator[list[_Seen]]:
    """What layers get, and a zero added to what each gives, whose gradient is that of what it gives."""
    seen: list[_Seen] = []
    towers = _towers(engine)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        got = (args[0] if args else next(iter(kwargs.values()))).detach()
        tower = towers.get(id(module), "")
        rows = inputs.tokens[tower].batch if tower in inputs.tokens else 1
        if isinstance(module, nn.Embedding) and len(output) == 1 < rows:  # positions: one table for all rows
            output, got = output.expand(rows, *output.shape[1:]), got.expand(rows, *got.shape[1:])
        leaf = torch.zeros((), dtype=output.dtype, device=output.device).expand(output.shape).detach().requires_grad_()
        seen.append(_Seen(module, got, got._version, leaf))
        return output + leaf

    with ExitStack() as stack:
        for module in watched.values():
            stack.callback(module.register_forward_hook(hook, prepend=True, with_kwargs=True).remove)
        yield seen


def _towers(engine: Engine) -> dict[int, str]:
    """The smallest tower that each module lies in, by its identity."""
    inside = {name: [id(one) for one in tower.module.modules()] for name, tower in engine.towers.items()}
    order = sorted(inside, key=lambda name: -len(inside[name]))
    return {module: name for name in order for module in inside[name]}


def _owner(engine: Engine, inputs: Inputs, tower: str, seen: _Seen, rows: int) -> tuple[int, ...]:
    """The row of each entry of a layer's batch."""
    batch = len(seen.leaf)
    if rows == 1:
        return (0,) * batch
    known = inputs.rows("vision" if tower == "connector" else tower) if engine.family.kind == "generative" else None
    if known is not None and len(known) == batch and max(known) < rows:  # a prompt may have several pictures
        return known
    if batch == rows:
        return tuple(range(rows))
    if (
        seen.got.dim() == 2 and batch % rows == 0 and not (tower and engine.towers[tower].packed)
    ):  # positions one after another
        return tuple(row for row in range(rows) for _ in range(batch // rows))
    raise InputError(
        f"a {type(seen.module).__name__} of '{tower or 'the model'}' runs over {batch} entries for {rows} rows",
        expected="as many as rows, so that each has its own gradient", do="give one row at a time (`batch=1`)",
    )  # fmt: skip


# --- products ---------------------------------------------------------------------------------------------------------


def _product(call: Call, piece: Piece, left: Basis, right: Basis, dtype: torch.dtype) -> Tensor:
    """L' G R of each entry of a layer's batch."""
    left, right = (None if one is None else one.to(call.slope.device, dtype) for one in (left, right))
    if is_norm(call.module):
        whole = _of_norm(call, piece, dtype)
        whole = whole if right is None else whole @ right
        return whole if left is None else left.T @ whole
    if isinstance(call.module, nn.Embedding):
        ids, slope = _words(call, piece, dtype)
        slope = slope if right is None else slope @ right
        if left is not None:
            return torch.cat([left, left.new_zeros(1, left.shape[1])])[ids].mT @ slope
        found = slope.new_zeros(len(slope), piece.shape[0] + 1, slope.shape[-1])
        return found.scatter_add_(1, ids[..., None].expand(slope.shape), slope)[:, :-1]
    slope, got = _sides(call, piece, dtype, right)
    slope = slope if left is None else slope @ left
    return slope.mT @ got


def _sides(
    call: Call, piece: Piece, dtype: torch.dtype, right: Basis = None
) -> tuple[Float[Tensor, "entry position rows"], Float[Tensor, "entry position columns"]]:
    """The factors of a matrix's gradient: d at the chosen rows, x (1 for a bias) at the chosen columns or along R."""
    got, slope = _positions(call, dtype)
    wide, (first, last) = got.shape[-1], piece.columns
    rows = slice(*piece.rows)
    inside = got[..., first : min(last, wide)]
    if right is not None:
        made = inside @ right[: inside.shape[-1]]
        return slope[..., rows], made + right[-1] if last > wide else made
    one = got.new_ones(*got.shape[:-1], 1)
    return slope[..., rows], torch.cat([inside, one], -1) if last > wide else inside


def _positions(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a layer got and the gradient at what it gave, as (entry, position, width)."""
    module, got, slope = call.module, call.got.to(dtype), call.slope.to(dtype)
    if not isinstance(module, nn.Conv2d):
        return got.reshape(len(got), -1, got.shape[-1]), slope.reshape(len(slope), -1, slope.shape[-1])
    assert not isinstance(module.padding, str)
    patches = unfold(got, module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.mT, slope.flatten(2).mT


def _words(call: Call, piece: Piece, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Which row of a piece each word is (one behind the last for a word outside), and the gradient there."""
    module: nn.Embedding = call.module
    ids, slope = call.got.reshape(len(call.got), -1), call.slope.to(dtype)
    slope = slope.reshape(len(slope), -1, slope.shape[-1])[..., slice(*piece.columns)]
    outside = (ids < piece.rows[0]) | (ids >= piece.rows[1])
    if module.padding_idx is not None:
        outside = outside | (ids == module.padding_idx)
    return (ids - piece.rows[0]).masked_fill(outside, piece.shape[0]), slope


def _of_norm(call: Call, piece: Piece, dtype: torch.dtype) -> Float[Tensor, "entry rows columns"]:
    """The gradients of gain and bias: sums over positions of d times the normed x, and of d."""
    module, got, slope = call.module, call.got.to(dtype), call.slope.to(dtype)
    if isinstance(module, nn.GroupNorm):
        normed = group_norm(got, module.num_groups, eps=module.eps)
        normed, slope = (part.flatten(2).mT for part in (normed, slope))
    elif isinstance(module, nn.LayerNorm):
        normed = layer_norm(got, got.shape[-1:], eps=module.eps)
    else:
        normed = got / norm_scale(module, got)[..., None]
    normed, slope = (part.reshape(len(part), -1, part.shape[-1]) for part in (normed, slope))
    sides = [(slope * normed).sum(1), slope.sum(1)]
    return torch.stack(sides, -1)[:, slice(*piece.rows), slice(*piece.columns)]
