"""What a unit writes, in words: its column of the output matrix, read as if the model ended there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.model.dictionary import decoder_rows
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.voice import speaking, voice
from cutaway.model.weights import head_weights, mlp_weights, readout
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import unit


@dataclass(frozen=True, eq=False)
class Written:
    """For each unit the words that its write vector reads as, best first, their scores, and the best of a random one.

    Scores are cosines with the texts of a bank (centred); of a decoder, logits in standard deviations over its words.
    """

    words: tuple[tuple[str, ...], ...]
    scores: Float[Tensor, "unit rank"]
    random: Float[Tensor, "unit"]


def write_vectors(model: Model, site: Site) -> Float[Tensor, "unit d_model"]:
    """What a site's units write to the residual stream when their activation is 1.

    Columns of W_out for neurons of an MLP, unit vectors for a residual stream, rows of the decoder for the features of
    a dictionary, those of neurons or of heads through their output matrix. SiteError for anything else.
    """
    through = model.engine.seat(site).through
    if through is not None and through.side == "features":
        return _projected(model, site, decoder_rows(through.dictionary))
    if site.part == "mlp.post" and site.layer is not None and site.stream is None:
        return mlp_weights(model, site.tower, site.layer)[0].T
    if site.part.startswith("resid_"):
        size = site.sizes["d_model"]
        return torch.eye(size, dtype=model.dtype, device=model.device)
    raise SiteError(
        f"it is not known what the units of '{site}' write", expected="`mlp.post`, a residual stream, or features",
        do="give their write vectors (`writes=`), a row each",
    )  # fmt: skip


def _projected(model: Model, site: Site, rows: Float[Tensor, "unit d"]) -> Float[Tensor, "unit d_model"]:
    """What rows of a decoder write: themselves, or of one inside a sublayer what its output matrix makes of them."""
    if site.layer is None or site.stream is not None:
        return rows
    if site.part.startswith("mlp.post."):
        out = mlp_weights(model, site.tower, site.layer)[0].T
    elif site.part.startswith("attn.z."):
        out = head_weights(model, site.tower, site.layer)[0].flatten(0, 1)
    else:
        return rows
    return rows.to(out) @ out


def written(
    model: Model, site: Site, units: Sequence[int], *, bank: TextBank | None = None,
    writes: Float[Tensor, "unit d_model"] | None = None, words: int = 5, seed: int = 0,
) -> Written | None:  # fmt: skip
    """Read the write vectors w_k of units at the end of their tower; None where that ends in no words.

    CLIP: cos(M w_k, t - mean t), M the linear part of the read-out (norm gain and projection) and t the texts of the
    `bank`. A decoder: U N(w_k), its own last norm and unembedding (Geva et al. 2021, arXiv 2012.14913), less the mean
    over words and divided by their spread. Beside it the best score of random vectors of the same length.
    What it can NOT tell: what later layers make of it; the sign that the activation has.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> found = written(model, model.sites.one("text.1.mlp.post"), [0, 3], words=2)
    >>> [len(row) for row in found.words], tuple(found.random.shape)
    ([2, 2], (2,))
    """
    reads = site.tower in speaking(model.engine) or (bank is not None and site.tower in model.towers)
    if not reads:
        return None
    rows = (write_vectors(model, site) if writes is None else writes)[list(units)].detach()
    dice = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows.shape, generator=dice).to(rows)
    noise = unit(noise) * rows.norm(dim=1, keepdim=True)
    read, random = (read_as(model, site, one, bank) for one in (rows, noise))
    best = read.topk(min(words, read.shape[1]), dim=1)
    named = tuple(tuple(_named(model, bank, row)) for row in best.indices)
    return Written(named, best.values.float().cpu(), random.amax(1).float().cpu())


@torch.no_grad()
def read_as(
    model: Model, site: Site, rows: Float[Tensor, "unit d_model"], bank: TextBank | None
) -> Float[Tensor, "unit word"]:
    """How much each vector of the stream says each text of a bank, or each next word of a tower that writes."""
    if site.tower in speaking(model.engine):
        logits = voice(model.engine, site.tower)(rows).float()
        return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)
    assert bank is not None
    end = readout(model, site.tower)
    same_space(bank, len(end.offset), model.name)
    return unit(rows.to(end.matrix) @ end.matrix.T) @ bank.directions(centre=True).to(end.matrix).T


def _named(model: Model, bank: TextBank | None, found: Int[Tensor, "rank"]) -> list[str]:
    if bank is not None:
        return [bank.texts[at] for at in found]
    return [str(model.tokenizer.decode([int(at)])).strip() for at in found]
