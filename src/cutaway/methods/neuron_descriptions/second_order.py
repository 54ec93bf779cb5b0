"""What a neuron of a picture tower writes to the end through later attention: second-order effects."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.methods.network_dissection.unit_maps import unit_site
from cutaway.methods.neuron_descriptions.write_vectors import write_vectors
from cutaway.methods.result import Provenance, Result
from cutaway.model.edits import Ablate
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.weights import Readout, head_weights, value_weights
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, ended, recorded, unit

SOURCE = "Gandelsman, Efros, Steinhardt 2024, arXiv 2406.04341, section 3"


@dataclass(frozen=True, eq=False, repr=False)
class SecondOrder(Result):
    """What each unit adds to pictures' embeddings, towards texts: (item, unit, text), in units of the embedding.

    `second`: through the attention of later layers, patterns and norms held as they are; `first`: straight to the end;
    `exact`: what the embedding loses when the unit is taken to zero, everything behind it run again (where asked).
    """

    main: ClassVar[str] = "second"

    def agreement(self) -> Any:
        """The correlation of each part, and of their sum, with the exact effect, and its size beside that."""
        exact = self["exact"].values.ravel()
        parts = {name: self[name].values.ravel() for name in ("first", "second")}
        parts["both"] = parts["first"] + parts["second"]
        rows = {
            name: (float(np.corrcoef(one, exact)[0, 1]) if one.std() > 0 else np.nan,
                   float(np.abs(one).mean() / max(np.abs(exact).mean(), 1e-30)))
            for name, one in parts.items()
        }  # fmt: skip
        return pandas.DataFrame.from_dict(rows, orient="index", columns=["correlation", "size"])

    def summary(self) -> Any:
        """The twelve units with the largest second-order effects, and the text along which."""
        size = np.abs(self["second"]).mean("item")
        best = size.max("text").to_series().sort_values(ascending=False).head(12)
        texts = [str(size.sel(unit=one).idxmax("text").values) for one in best.index]
        return best.to_frame("mean size").assign(text=texts).reset_index()

    def _draw(self, ax: Axes) -> None:
        second, first = (np.abs(self[name]).mean(("item", "text")) for name in ("second", "first"))
        ax.scatter(first, second, s=6)
        ax.set(xlabel="first order, mean size", ylabel="second order, mean size")


def second_order(
    model: Model, pictures: Rows, bank: TextBank, site: str = "", *, exact: int = 0, batch: int = 16,
    progress: bool = True,
) -> SecondOrder:  # fmt: skip
    """How much of the embedding each unit brings through later attention layers, and straight.

    phi_k = (1/s) M sum_{l > site} sum_h W_O W_V w_k sum_i A_{cls,i} a_ik / s_i: the activation a_ik at position i times
    what the unit writes, w_k, through the value and output matrices of head h, with the attention A to the class token
    and the denominators s of the norms held at what they are (means are still taken off, gains still act); M is the
    read-out. Straight: (1/s) M w_k a_{cls,k}. Towards texts: phi_k · t / |t|. The approximation: no other path counts.
    Left out are those through later MLPs and through two attention layers or more, and every change of a pattern or a
    norm. With `exact` only so many units stay, those with the largest effects; each is taken away in a run of its own,
    and `agreement` says how far the approximation is true.

    Units: those of the embedding. Source: Gandelsman, Efros and Steinhardt 2024, arXiv 2406.04341, section 3; they look
    at units of late layers, divide by the length of the embedding and take the mean over pictures out.
    What it can NOT tell: what a unit does through MLPs, which of early layers is most of it.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.bank import text_bank
    >>> model, rows = cutaway.load("tiny:clip"), [scene_at("test", i) for i in range(3)]
    >>> bank = text_bank(model, ["a dog", "a cat"], progress=False)
    >>> second_order(model, rows, bank, "vision.1.mlp.post", progress=False)["second"].dims
    ('item', 'unit', 'text')
    """
    started, at = time.perf_counter(), unit_site(model, site)
    end = ended(model, at.tower)
    if at.layer is None or at.part != "mlp.post" or end.at != "cls":
        raise SiteError(
            f"'{at}' of a tower that is read at its {end.reader}", expected="`mlp.post` of one read at a class token",
            do="take 'vision.4.mlp.post' of a CLIP",
        )  # fmt: skip
    words = unit(same_space(bank, len(end.offset), model.name))
    later = range(at.layer + 1, model.sites.towers()[at.tower])
    routes = _routes(model, at, end, later, words)
    sites = [str(at), *(f"{at.tower}.{layer}.attn.{part}" for layer in later for part in ("pattern", "norm.scale"))]
    parts, gone = [], list[tuple[Inputs, Tensor]]()
    for run in recorded(model, pictures, at.tower, [*sites, *end.sites], batch=batch, progress=progress):
        parts.append(_batch(run, at, end, later, routes, write_vectors(model, at), words))
        gone += [(run.inputs, run[end.space])] if exact else []
    data = xarray.Dataset(
        {name: (("item", "unit", "text"), torch.cat([part[n] for part in parts]).cpu().numpy())
         for n, name in enumerate(("first", "second"))},
        coords={"unit": range(len(routes[0][0]) if routes else parts[0][0].shape[1]), "text": list(bank.texts)},
    )  # fmt: skip
    if exact:
        size = np.abs(data["first"] + data["second"]).mean(("item", "text"))
        data = data.isel(unit=np.sort(np.argsort(-size.values)[:exact]))
        data["exact"] = (("item", "unit", "text"), _exact(model, gone, at, end, data["unit"].values, words))
    told = Provenance.of(
        "second_order", SOURCE, started=started, model=model, sites=(str(at),), texts=len(bank), exact=exact,
        held="patterns and norms; no path through later MLPs or two attention layers",
    )  # fmt: skip
    return SecondOrder(data, told)


def _routes(
    model: Model, site: Site, end: Readout, later: range, words: Float[Tensor, "text joint"]
) -> list[tuple[Float[Tensor, "unit head text"], int]]:
    """For every later layer: what a unit of activation 1 brings through each head, towards each text, without norms."""
    written, aims = write_vectors(model, site).detach(), words.to(end.matrix) @ end.matrix
    found = []
    for layer in later:
        out, _ = head_weights(model, site.tower, layer)
        value, _ = value_weights(model, site.tower, layer)
        value = value.repeat_interleave(len(out) // len(value), 0)
        read = torch.einsum("ud,hed->uhe", written.to(value), value)
        found.append((torch.einsum("uhe,hed,td->uht", read, out.to(read), aims.to(read)), layer))
    return found


def _batch(
    run: Run, site: Site, end: Readout, later: range, routes: list[tuple[Tensor, int]], written: Tensor, words: Tensor
) -> tuple[Tensor, Tensor]:
    """First- and second-order effects of every unit on every row."""
    active, weight = run[site].detach(), end.weights(run)[:, 0]  # row, token: 1 / s where the tower is read
    read, scale = weight.argmax(1), weight.amax(1)
    rows = torch.arange(len(active))
    straight = written.to(end.matrix) @ end.matrix.T @ words.to(end.matrix).T  # unit, text
    first = (active[rows, read] * scale[:, None])[..., None] * straight.to(active)
    second = torch.zeros_like(first)
    for route, layer in routes:
        pattern = run[f"{site.tower}.{layer}.attn.pattern"][rows, :, read]  # row, head, key
        looked = pattern / run[f"{site.tower}.{layer}.attn.norm.scale"][:, None]
        carried = torch.einsum("bhi,biu->buh", looked.to(active), active)
        second += torch.einsum("buh,uht->but", carried, route.to(active)) * scale[:, None, None]
    return first, second


def _exact(
    model: Model, rows: list[tuple[Inputs, Tensor]], site: Site, end: Readout, units: Any,
    words: Float[Tensor, "text joint"],
) -> Float[np.ndarray, "item unit text"]:  # fmt: skip
    """What the embedding loses towards each text without each unit."""
    made = []
    for inputs, plain in rows:
        lost = [plain - model.run(inputs, record=end.space, edits=Ablate(site, unit=int(one)))[end.space]
                for one in units]  # fmt: skip
        made.append(torch.stack(lost, 1) @ words.to(plain).T)
    return np.asarray(torch.cat(made).detach().cpu().numpy())
