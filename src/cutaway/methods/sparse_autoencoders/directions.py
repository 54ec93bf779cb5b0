"""What a unit of a site writes: the row of a dictionary's decoder, the column of an MLP, an axis of the stream."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.dictionary import At, Dictionary
from cutaway.model.model import Model
from cutaway.model.weights import mlp_weights

PIECE = 1024  # features that are decoded at once


def directions(model: Model, site: str) -> Float[Tensor, "unit d_model"]:
    """What one more of each unit of a site adds to the stream behind it, a row a unit.

    Of features it is what the dictionary makes of each alone, less what it makes of none; of MLP units the column of
    the output matrix; of a state the axes themselves. MethodError for any other site.
    """
    here, seat = model.sites.one(site), model.engine.seat(site)
    if seat.through is not None and seat.through.side == "features":
        return rows_of(seat.through.dictionary)
    if here.part == "mlp.post" and here.layer is not None:
        return mlp_weights(model, here.tower, here.layer)[0].detach().T
    if here.part.startswith("resid_") or here.part in ("attn.out", "mlp.out"):
        return torch.eye(here.sizes[here.axes[-1]], dtype=model.dtype, device=model.device)
    raise MethodError(
        f"what units of '{site}' write is not known", expected="features of a dictionary, MLP units, or a state",
        do="take `mlp.post`, `resid_post` or `….features`",
    )  # fmt: skip


def rows_of(dictionary: Dictionary) -> Float[Tensor, "width d_out"]:
    """The decoder of a dictionary, a feature a row; of one that tells kinds apart as at the kind where that is on."""
    found = []
    for first in range(0, dictionary.width, PIECE):
        count = min(PIECE, dictionary.width - first)
        ones = torch.zeros(count + 1, dictionary.width)
        ones[torch.arange(count), first + torch.arange(count)] = 1.0
        x = torch.zeros(count + 1, dictionary.d_in)
        rows = torch.zeros(count, dictionary.d_out)
        for kind in ("image", "text") if "kind" in dictionary.asks else ("image",):
            at = At(At.all(kind, (count + 1,)).kind, torch.zeros(count + 1, dtype=torch.long), 1)
            made = dictionary.decode(ones, x, at)
            moved = (made[:-1] - made[-1:]).to(rows)
            rows = torch.where(rows.norm(dim=1, keepdim=True) > 0, rows, moved)
        found.append(rows)
    return torch.cat(found)
