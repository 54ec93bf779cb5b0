"""Relevance along attention, through towers to patches and words: rollout, and the bi-modal one of Chefer et al."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.rollout import rolled
from cutaway.methods.relevance.leaves import Seen, Side
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap

Aim = Callable[[Run], Tensor]
Layer = Callable[[Float[Tensor, "row head query key"], Float[Tensor, "row head query key"]], Tensor]


@dataclass(frozen=True, eq=False)
class Along:
    """What attention says of each side: of its positions, or (`grids`) of places; `maps` (row, key, …) of words."""

    scores: Mapping[Side, Float[Tensor, "row position"]]
    tokens: Mapping[Side, TokenMap]
    grids: Float[Tensor, "row height width"] | None = None
    maps: Float[Tensor, "row key height width"] | None = None


def chefer(seen: Seen, target: Aim) -> Along:
    """R <- R + A R layer by layer, A the mean over heads of (pattern x its gradient) where that is positive."""
    return _along(seen, target, lambda pattern, slope: (pattern * slope).clamp(min=0).mean(1), kept=1.0)


def rollout(seen: Seen, target: Aim) -> Along:
    """The product of (mean over heads of the pattern + I) / 2 over layers."""

    def mixed(pattern: Tensor, _: Tensor) -> Tensor:
        return rolled(pattern, None)

    return _along(seen, target, mixed, kept=0.0)


def _along(seen: Seen, target: Aim, layer: Layer, *, kept: float) -> Along:
    if seen.inputs.call.drawing:
        return _of_denoiser(seen, target, layer, kept)
    towers = [name for name in ("text", "vision") if _patterns(seen, name)]
    if not towers:
        raise MethodError(
            f"'{seen.model.name}' has no attention between positions of its inputs", expected="a transformer",
            do="take another `method=`",
        )  # fmt: skip
    apart = seen.model.family.kind == "contrastive"
    ends = {name: _end(seen, name) for name in towers if name == "text" or apart or len(towers) == 1}
    sites = [site for name in towers for site in _patterns(seen, name)]
    found = seen.model.gradients(seen.inputs, target, [*sites, *ends.values()])
    scores: dict[Side, Tensor] = {}
    tokens: dict[Side, TokenMap] = {}
    for name in towers:
        some = _patterns(seen, name)
        tokens_of = seen.inputs.tokens[name]
        if name in ends:
            begun = _seed(found[ends[name]])
        else:
            taken = _handed(seen, scores["words"], tokens_of)
            if taken is None:  # no patch of the tower is one picture position of the decoder
                break
            begun = taken
        through = _carried(begun, [layer(found.activations[str(s)].double(), found[s].double()) for s in some], kept)
        side: Side = "words" if name == "text" else "picture"
        scores[side], tokens[side] = through, tokens_of
    if "picture" not in scores and (seen.inputs.tokens["text"].image >= 0).any():
        scores["picture"], tokens["picture"] = scores["words"], seen.inputs.tokens["text"]
    return Along({side: one.cpu() for side, one in scores.items()}, tokens)


def _patterns(seen: Seen, tower: str) -> list[Site]:
    return [
        site for site in seen.model.sites
        if site.tower == tower and site.part == "attn.pattern" and not site.dead and tower in seen.inputs.tokens
        and site.axes[0] == "batch"
    ]  # fmt: skip


def _end(seen: Seen, tower: str) -> str:
    """The last state of a tower, at whose positions the number is read."""
    found = [s for s in seen.model.sites if s.tower == tower and s.part == "resid_post" and not s.dead]
    return str(found[-1])


def _seed(slope: Float[Tensor, "row position unit"]) -> Float[Tensor, "row position"]:
    """At which positions the number is read: the share of each in the lengths of its gradients at the last state."""
    length = slope.double().norm(dim=-1)
    return length / length.sum(1, keepdim=True).clamp(min=torch.finfo(length.dtype).tiny)


def _carried(begun: Float[Tensor, "row query"], layers: Sequence[Tensor], kept: float) -> Float[Tensor, "row key"]:
    """From the last layer to the first: r <- kept r + r A."""
    found = begun
    for one in reversed(layers):
        found = kept * found + torch.einsum("bq,bqk->bk", found, one)
    return found


def _handed(seen: Seen, scores: Float[Tensor, "row position"], patches: TokenMap) -> Tensor | None:
    """What picture positions of a decoder got, at the patches that they are made of; None where not one to one."""
    text = seen.inputs.tokens["text"]
    places = {
        (int(patches.image[row, at]), int(patches.tile[row, at]), int(patches.row[row, at]), int(patches.col[row, at])):
            (row, at) for row in range(patches.batch) for at in range(len(patches)) if patches.row[row, at] >= 0
    }  # fmt: skip
    made = torch.zeros(patches.batch, len(patches), dtype=scores.dtype)
    count = 0
    for row in range(text.batch):
        for at in range(len(text)):
            if text.row[row, at] >= 0:
                key = int(text.image[row, at]), int(text.tile[row, at]), int(text.row[row, at]), int(text.col[row, at])
                if key not in places:
                    return None
                made[places[key]] = scores[row, at].cpu()
                count += 1
    return made.to(scores.device) if count == len(places) else None


# --- denoisers --------------------------------------------------------------------------------------------------------


def _of_denoiser(seen: Seen, target: Aim, layer: Layer, kept: float) -> Along:
    """Cross-attention of all layers added up (words are the same in each), or the product over joint attention."""
    live = [site for site in seen.model.sites if site.tower == "denoiser" and not site.dead]
    cross = [site for site in live if site.part == "cross.pattern"]
    joint = [site for site in live if site.part == "attn.pattern" and not cross]
    if cross and not kept:
        raise MethodError(
            f"the attention of '{seen.model.name}' cannot be rolled out: words are the same in all layers",
            expected="joint attention (SD3, Flux)",
            do="`cross_attention` has its maps, `method='chefer'` their relevance",
        )  # fmt: skip
    if not cross and "denoiser.joint" not in seen.inputs.tokens:
        raise MethodError(f"the denoiser of '{seen.model.name}' attends to no words", expected="a prompt")
    found = seen.model.gradients(seen.inputs, target, cross or joint)
    layers = [layer(_whole(found.activations[str(s)]), _whole(found[s])) for s in cross or joint]
    return _crossed(seen, cross, layers) if cross else _joined(seen, layers, kept)


def _whole(pattern: Float[Tensor, "..."]) -> Float[Tensor, "row head query key"]:
    """A pattern without the axes of the one step and the one row of guidance."""
    return pattern.reshape(pattern.shape[-4:]).double()


def _crossed(seen: Seen, sites: Sequence[Site], layers: Sequence[Tensor]) -> Along:
    picture = seen.leaf("picture")
    assert picture is not None
    grid = int(picture.tokens.row.max()) + 1, int(picture.tokens.col.max()) + 1
    maps = torch.zeros(())
    for site, one in zip(sites, layers, strict=True):
        patches = seen.inputs.map_for(site, "query", one.shape[1])
        shape = int(patches.row.max()) + 1, int(patches.col.max()) + 1
        laid = one.transpose(1, 2).unflatten(-1, shape)
        share = shape[0] * shape[1] / (grid[0] * grid[1])  # so that what a layer gives stays what it is
        maps = maps + interpolate(laid, grid, mode="nearest").cpu() * share
    own = seen.leaf("words")
    assert own is not None
    words = own.own.double()
    return Along(
        {"words": maps.sum((2, 3))}, {"words": own.tokens}, torch.einsum("bkhw,bk->bhw", maps, words), maps
    )  # fmt: skip


def _joined(seen: Seen, layers: Sequence[Tensor], kept: float) -> Along:
    tokens = seen.inputs.tokens["denoiser.joint"]
    patches = torch.from_numpy(tokens.row >= 0)
    size = layers[0].shape[-1]
    product = torch.eye(size, dtype=torch.float64).expand(len(layers[0]), size, size).to(layers[0].device)
    for one in layers:
        product = kept * product + one @ product
    product = product.cpu()
    own = patches.to(product)[:, :, None] * product
    count = patches.sum(1).double()[:, None]
    scores = own.sum(1) / count
    shape = int(tokens.row.max()) + 1, int(tokens.col.max()) + 1
    said, first = ~patches[0], patches[0]
    maps = product[:, first][:, :, said].transpose(1, 2).unflatten(-1, shape)
    words = seen.inputs.tokens["denoiser.text"]
    picture = scores[:, first].unflatten(-1, shape)
    return Along({"words": scores[:, said]}, {"words": words}, picture, maps / count[:, :, None, None])
