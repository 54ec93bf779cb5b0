"""The embedding of a picture or text as an exact sum over heads, MLPs, biases and source tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.grid import folded
from cutaway.methods.representation_decomposition.layers import axes_for, bars, by_layer
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.weights import Readout, head_weights
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, ended, recorded, unit

METHOD = "representation_decomposition"
SOURCE = "Gandelsman, Efros, Steinhardt 2023, arXiv 2310.05916"


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Result):
    """The terms of each embedding, in the units of the space the tower is read in.

    `embed` (item, joint); `heads` (item, layer, head, joint); `biases`, `mlps` (item, layer, joint); `norm_bias`,
    `offset` (joint); with `by_token`, `head_tokens` (item, layer, head, token, joint); `pool_mlp` (item, joint) where
    an attention head pools the tower. `embedding` is the model's own output, not normalised, and `error` the largest
    entry of its difference from the sum of the terms.

    Made `towards` directions, every term has `text` in the place of `joint`: its product with each of them, which are
    kept as `towards` (text, joint), of length 1.
    """

    main: ClassVar[str] = "share"

    @property
    def along(self) -> str:
        """What the terms are told along: `joint`, whole vectors, or `text`, what of them is towards directions."""
        return "text" if "towards" in self.data else "joint"

    def vectors(self, name: str) -> xarray.DataArray:
        """A variable whose vectors are needed whole; MethodError where only what is towards directions was kept."""
        if self.along == "text":
            raise MethodError(
                f"this decomposition has no vectors of its {name}", expected="one that was made without `towards`",
                exists=f"what is towards {self.data.sizes['text']} directions",
                do="make it again without `towards`",
            )  # fmt: skip
        return self[name]

    def terms(self) -> xarray.DataArray:
        """Every term on one axis, (item, term, `along`): `embed`, `0.head.0`, …, `0.attn_bias`, `0.mlp`, `offset`."""
        found, names = [self["embed"].values[:, None]], ["embed"]
        for layer in range(self.data.sizes["layer"]):
            heads = self["heads"].values[:, layer]
            found += [heads, self["biases"].values[:, layer, None], self["mlps"].values[:, layer, None]]
            names += [f"{layer}.head.{head}" for head in range(heads.shape[1])]
            names += [f"{layer}.attn_bias", f"{layer}.mlp"]
        if "pool_mlp" in self.data:
            found.append(self["pool_mlp"].values[:, None])
            names.append("pool_mlp")
        constants = np.stack([self["norm_bias"].values, self["offset"].values])
        found.append(np.broadcast_to(constants, (len(found[0]), *constants.shape)))
        return xarray.DataArray(
            np.concatenate(found, 1), dims=("item", "term", self.along),
            coords={"term": [*names, "norm_bias", "offset"]},
        )  # fmt: skip

    def effect(
        self, directions: TextBank | Float[Tensor, "text joint"] | None = None, of: str = "terms", *,
        cosine: bool = True,
    ) -> xarray.DataArray:  # fmt: skip
        """The direct effect of each term on each direction: <term, t/|t|>, over |y| when `cosine`.

        Summed over `terms` it is the cosine of embedding y and direction t (or |y| times that). `of` may also name
        a variable, such as `heads` or `head_tokens`; the last dimension becomes `text`. A decomposition made `towards`
        directions knows these and no others: unless they are given, those are meant.
        """
        if directions is None or self.along == "text":
            towards = self._kept(directions)
        else:
            given, names = aimed(directions, self.data.sizes["joint"], self.provenance.model)
            towards = xarray.DataArray(given.numpy(force=True), dims=("text", "joint"), coords={"text": names})
        values = self.terms() if of == "terms" else self[of]
        effect = values if "text" in values.dims else xarray.dot(values, towards, dim="joint")
        return (effect / self._length() if cosine else effect).assign_coords(text=towards["text"])

    def _kept(self, directions: TextBank | Float[Tensor, "text joint"] | None) -> xarray.DataArray:
        """The directions it was made towards; MethodError where it was made towards none, or others are given."""
        if self.along == "joint":
            raise MethodError(
                "effects on nothing: this decomposition holds whole vectors", expected="directions", do="give a bank"
            )
        kept = self["towards"]
        if directions is not None:
            given = aimed(directions, self.data.sizes["joint"], self.provenance.model)[0].to(torch.float64)
            own = torch.from_numpy(kept.values).to(given)
            if given.shape != own.shape or not torch.allclose(given, own, atol=1e-4):
                raise MethodError(
                    "these directions are not those that the decomposition was made towards",
                    expected="the same, in their order",
                    exists=", ".join(map(str, kept["text"].values[:5])),
                    do="make it `towards` these, or without `towards`",
                )  # fmt: skip
        return kept

    def cosines(self, bank: TextBank) -> xarray.DataArray:
        """The cosine of each embedding with each text of a bank, (item, text)."""
        texts = same_space(bank, self.data.sizes["joint"], self.provenance.model)
        embedding = torch.from_numpy(self["embedding"].values).to(texts.dtype)
        return xarray.DataArray(
            (unit(embedding) @ unit(texts).T).numpy(force=True), dims=("item", "text"), name="cosine",
            coords={"text": list(bank.texts), "topic": ("text", list(bank.topics))},
        )  # fmt: skip

    def on_grid(self, effect: xarray.DataArray) -> xarray.DataArray:
        """Fold the token axis of an effect (`of="head_tokens"`) onto the patch grid: (…, row, col) for `token`."""
        rows, cols = (self[name].values for name in ("row", "col"))
        if "token" not in effect.dims or (rows < 0).all():
            raise MethodError("there is no patch grid here", expected='the effect of="head_tokens" on pictures')
        return folded(effect, rows, cols)

    def shares(self) -> xarray.DataArray:
        """The share of each term in the squared length of the embedding, <term, y> / |y|^2; they sum to 1."""
        self.vectors("embed")
        return xarray.dot(self.terms(), self["embedding"], dim="joint") / self._length() ** 2

    def summary(self) -> Any:
        """Mean share of each layer's heads and MLP in the squared length of the embedding.

        Made `towards` directions: the mean effect of the parts of each layer on each of them, a cosine.
        """
        if self.along == "text":
            return by_layer(self.effect())
        mean = self.shares().mean("item")
        table: dict[str, list[Any]] = {
            "layer": ["embed"],
            "heads": [np.nan],
            "mlp": [np.nan],
            "all": [float(mean.sel(term="embed"))],
        }
        for layer in range(self.data.sizes["layer"]):
            parts = {name: float(value) for name, value in zip(mean["term"].values, mean.values, strict=True)}
            mine = {name: value for name, value in parts.items() if name.startswith(f"{layer}.")}
            table["layer"].append(str(layer))
            table["heads"].append(sum(value for name, value in mine.items() if ".head." in name))
            table["mlp"].append(mine[f"{layer}.mlp"])
            table["all"].append(sum(mine.values()))
        return xarray.Dataset({key: ("row", value) for key, value in table.items()}).to_dataframe()

    def to_dataframe(self, name: str | None = None) -> Any:
        """A variable as a tidy table; by default the `share` of each term, or its `effect` towards directions."""
        if name:
            return super().to_dataframe(name)
        found = self.shares().rename("share") if self.along == "joint" else self.effect().rename("effect")
        return found.to_dataframe().reset_index()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean share of each head in the squared length, or the effects towards directions by layer."""
        return super().plot(axes_for(self.summary()) if ax is None and self.along == "text" else ax)

    def _length(self) -> xarray.DataArray:
        return (self["embedding"] ** 2).sum("joint") ** 0.5

    def _draw(self, ax: Axes) -> None:
        if self.along == "text":
            bars(ax, self.summary())
            return
        direct = xarray.dot(self["heads"], self["embedding"], dim="joint") / self._length() ** 2
        heat(ax, direct.mean("item"), "mean share of the squared length", diverging=True)


def representation_decomposition(
    model: Model, rows: Rows, *, towards: TextBank | Float[Tensor, "text joint"] | None = None, tower: str = "vision",
    by_token: bool = False, batch: int = 32, progress: bool = True,
) -> Decomposition:  # fmt: skip
    """Write the embedding of each row as a sum of what every component of a tower adds to it directly.

    y = P N(x) + c with the final norm linearised at its observed scale, N(x) = g (x - mean x) / s + b, and
    x = e + sum_l (sum_h a_lh + bias_l + m_l) at the position i the tower is read at. So
    y = sum_k M x_k / s + P b + c over all components x_k, with M = P diag(g) (1 - 11'/d). A head splits further by
    source token j: a_lh = sum_j A_lh[i, j] v_lh[j] W_lh. The sum is exact; a gap beyond rounding is an error.
    `towards` directions t, M becomes (t/|t|)' M, and no vector of a head is ever made: texts in place of joint.

    Where an attention head pools all positions (SigLIP), its pattern is held as well: with a_ki the share of position i
    in its head k, M_k = W_O W_V diag(g)(1 - 11'/d), y = sum_k sum_i a_ki M_k x_i / s_i + constants + its MLP's output,
    and the components x are summed over all positions they write at.

    Units: those of the embedding (not normalised). Source: Gandelsman et al. 2023, arXiv 2310.05916. The sum is theirs,
    what belongs to whom is not: here each component loses its own mean, x_k - mean(x_k), and biases of projections,
    P b and c are terms of their own. Their program takes an equal share of the mean of the whole state from each of the
    K = 2 L + 1 layer terms, x_k - mean(x) / K, adds P b / K to each, spreads an attention's share and the bias of its
    projection evenly over heads and source tokens, and divides by |y|. So a head's contribution differs along P g, P b
    and P diag(g) bias. We take texts and ViTs too. A tower without a shared space is read in its class logits, or
    behind its final norm.

    What it can NOT tell: effects that pass through later layers (an early head can matter by what others do with it),
    and how s itself would change if a component were gone. Without `towards` it holds items x layers x heads x joint
    numbers in memory: `decompositions` gives the same batch by batch.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> model = cutaway.load("tiny:clip", dtype="float64")
    >>> made = representation_decomposition(model, [scene_at("test", 0), scene_at("test", 1)], progress=False)
    >>> bool(made["error"].max() < 1e-10), made["heads"].dims
    (True, ('item', 'layer', 'head', 'joint'))
    """
    reading, parts, last = _Reading.of(model, tower, by_token, towards), [], None
    for part, inputs in reading.terms(rows, batch, progress):
        parts.append(part)
        last = inputs
    return reading.whole(parts, last)


def decompositions(
    model: Model, rows: Rows, *, towards: TextBank | Float[Tensor, "text joint"] | None = None, tower: str = "vision",
    by_token: bool = False, batch: int = 32, progress: bool = True,
) -> Iterator[Decomposition]:  # fmt: skip
    """The same, a batch at a time: a stream for what needs no more of it than sums, such as `text_span`.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> stream = decompositions(cutaway.load("tiny:clip"), (scene_at("test", i) for i in range(5)), batch=2)
    >>> [part.data.sizes["item"] for part in stream]
    [2, 2, 1]
    """
    reading = _Reading.of(model, tower, by_token, towards)
    for part, inputs in reading.terms(rows, batch, progress):
        yield reading.whole([part], inputs)


@dataclass(frozen=True)
class _Reading:
    """What is read of each run, and what becomes of it."""

    model: Model
    end: Readout
    weights: list[tuple[Tensor, Tensor]]
    sites: list[str]
    by_token: bool
    started: float
    towards: tuple[Float[Tensor, "text joint"], list[Any]] | None = None

    @classmethod
    def of(
        cls, model: Model, tower: str, by_token: bool, towards: TextBank | Float[Tensor, "text joint"] | None
    ) -> _Reading:
        started, end = time.perf_counter(), ended(model, tower)
        weights = [head_weights(model, tower, layer) for layer in range(model.sites.towers()[tower])]
        sites = [f"{tower}.*.attn.z", f"{tower}.*.mlp.out", *end.sites]
        sites += [f"{tower}.*.attn.pattern", f"{tower}.*.attn.v"] if by_token else []
        aims = None if towards is None else aimed(towards, len(end.offset), model.name)
        return cls(model, end if aims is None else _contracted(end, aims[0]), weights, sites, by_token, started, aims)

    def terms(self, rows: Rows, batch: int, progress: bool) -> Iterator[tuple[dict[str, Tensor], Inputs]]:
        """The terms of each batch, and the batch."""
        model, tower = self.model, self.end.tower
        for run in recorded(model, rows, tower, self.sites, batch=batch, what="decomposing", progress=progress):
            found = _terms(run, self.end, self.weights, self.by_token)
            if self.towards is not None and "pool_mlp" in found:
                found["pool_mlp"] = found["pool_mlp"] @ self.towards[0].to(found["pool_mlp"]).T
            yield {name: value.cpu() for name, value in found.items()}, run.inputs

    def whole(self, parts: list[dict[str, Tensor]], inputs: Inputs | None) -> Decomposition:
        """Batches as one result, whose sum is checked."""
        data = _dataset(parts, self.end, inputs, self.towards)
        _check(data, self.model.dtype)
        told = Provenance.of(
            METHOD, SOURCE, started=self.started, model=self.model, sites=tuple(self.sites), tower=self.end.tower,
            by_token=self.by_token, space=self.end.space, read_at=self.end.at,
            **({} if self.towards is None else {"towards": len(self.towards[1])}),
        )  # fmt: skip
        return Decomposition(data, told)


def _contracted(end: Readout, directions: Float[Tensor, "text joint"]) -> Readout:
    """The end of a tower with its linear parts multiplied by directions t: t' P_k and t' c, a number each for `joint`.

    Its norm is as before; its pool is no part of this.
    """
    accurate = torch.promote_types(end.weight.dtype, torch.float32)
    t = directions.to(end.weight.device, accurate)
    return replace(end, weight=torch.einsum("tj,kjd->ktd", t, end.weight.to(accurate)), offset=t @ end.offset.to(t))


def _terms(run: Run, end: Readout, weights: list[tuple[Tensor, Tensor]], by_token: bool) -> dict[str, Tensor]:
    """The terms of one batch, rows first."""
    tower = end.tower
    accurate = torch.promote_types(run[f"{tower}.0.resid_pre"].dtype, torch.float32)
    matrices = end.matrices.to(accurate)  # what lies on other devices is brought to theirs
    taken = end.weights(run).to(matrices)

    def gathered(x: Tensor) -> Tensor:
        """What the model reads of a state: (batch, token, …) to (batch, k, …)."""
        return torch.einsum("bkt,bt...->bk...", taken, x.to(matrices))

    def read(site: str) -> Tensor:
        return torch.einsum("bkd,kcd->bc", gathered(run[site]), matrices)

    head, bias, mlp, token = [], [], [], []
    for layer, (weight, offset) in enumerate(weights):
        written = torch.einsum("hed,kcd->khec", weight.to(matrices), matrices)
        head.append(torch.einsum("bkhe,khec->bhc", gathered(run[f"{tower}.{layer}.attn.z"]), written))
        bias.append(torch.einsum("bk,kcd,d->bc", taken.sum(-1), matrices, offset.to(matrices)))
        mlp.append(read(f"{tower}.{layer}.mlp.out"))
        if by_token:
            pattern = gathered(run[f"{tower}.{layer}.attn.pattern"].transpose(1, 2))  # batch, k, head, source
            values = run[f"{tower}.{layer}.attn.v"].to(matrices)
            token.append(torch.einsum("bkhj,bjhe,khec->bhjc", pattern, values, written))
    space = run[end.space].to(matrices)
    if space.dim() == 3:
        space = space[torch.arange(len(space)), end.positions(run.inputs)]
    found = {
        "embed": read(f"{tower}.0.resid_pre"), "heads": torch.stack(head, 1), "biases": torch.stack(bias, 1),
        "mlps": torch.stack(mlp, 1), "embedding": space,
    }  # fmt: skip
    if end.pool is not None:
        found["pool_mlp"] = run[f"{tower}.pool.mlp.out"].to(matrices)[:, 0]
    return found | ({"head_tokens": torch.stack(token, 1)} if by_token else {})


def aimed(
    directions: TextBank | Float[Tensor, "text joint"], width: int, model: str
) -> tuple[Float[Tensor, "text joint"], list[Any]]:
    """Directions of length 1 and their names; MethodError where they are not of this space."""
    if isinstance(directions, TextBank):
        return unit(same_space(directions, width, model)), [*directions.texts]
    if directions.shape[1] != width:
        raise MethodError(f"directions of length {directions.shape[1]}", expected=f"length {width}")
    return unit(directions), list(range(len(directions)))


def _dataset(
    parts: list[dict[str, Tensor]], end: Readout, inputs: Inputs | None,
    towards: tuple[Float[Tensor, "text joint"], list[Any]] | None,
) -> xarray.Dataset:  # fmt: skip
    along = "joint" if towards is None else "text"
    axes = {
        "embed": ("item", along), "pool_mlp": ("item", along), "embedding": ("item", "joint"),
        "heads": ("item", "layer", "head", along), "biases": ("item", "layer", along), "mlps": ("item", "layer", along),
        "head_tokens": ("item", "layer", "head", "token", along),
    }  # fmt: skip
    whole = {name: (axes[name], _joined([part[name] for part in parts]).numpy()) for name in parts[0]}
    accurate = parts[0]["embed"].dtype
    constants = {"norm_bias": end.norm_bias.to(accurate), "offset": end.offset.to(accurate)}
    data = xarray.Dataset({**whole, **{name: ((along,), value.numpy(force=True)) for name, value in constants.items()}})
    if towards is not None:
        data["towards"] = ("text", "joint"), towards[0].to(accurate).numpy(force=True)
        data = data.assign_coords(text=towards[1])
    data = data.assign_coords(layer=np.arange(data.sizes["layer"]), head=np.arange(data.sizes["head"]))
    total = data["embed"] + data["heads"].sum(("layer", "head")) + (data["biases"] + data["mlps"]).sum("layer")
    total = total + data["pool_mlp"] if "pool_mlp" in data else total
    model = data["embedding"] if towards is None else xarray.dot(data["embedding"], data["towards"], dim="joint")
    data["error"] = abs(total + data["norm_bias"] + data["offset"] - model).max(along)
    if "token" in data.sizes and inputs is not None:
        known = inputs.tokens[end.tower]
        size = data.sizes["token"]
        columns = {"token_kind": known.kind[0].astype(str), "row": known.row[0], "col": known.col[0]}
        if len(known) == size and (known.row[0] >= 0).any():
            data = data.assign_coords({name: ("token", column) for name, column in columns.items()})
    return data


def _joined(found: list[Tensor]) -> Tensor:
    """Batches behind one another; where texts have different lengths, absent tokens contribute zero."""
    if found[0].dim() < 5:
        return torch.cat(found)
    longest = max(part.shape[3] for part in found)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[3])) for part in found])


def _check(data: xarray.Dataset, dtype: torch.dtype) -> None:
    """Refuse a decomposition whose terms do not add up: the tower then is not what its table row says."""
    error, size = float(data["error"].max()), float(abs(data["embedding"]).max())
    if not error <= min(1e4 * torch.finfo(dtype).eps, 0.1) * max(size, 1.0):
        raise MethodError(
            f"the terms miss the embedding by {error:.2g}", expected=f"rounding only, of numbers up to {size:.2g}",
            do="report this: a component of this architecture is not in the sum",
        )  # fmt: skip
