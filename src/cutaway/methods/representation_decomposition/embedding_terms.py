"""What is read of a run, and the terms of an embedding that it makes: whole, or towards directions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.weights import Readout, head_weights
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, ended, recorded, unit

METHOD = "representation_decomposition"
SOURCE = "Gandelsman, Efros, Steinhardt 2023, arXiv 2310.05916"
ITSELF = "itself"  # towards the embedding that is taken apart
Towards = TextBank | Float[Tensor, "text joint"] | str | None


@dataclass(frozen=True)
class Reading:
    """What is read of each run, and what becomes of it."""

    model: Model
    end: Readout
    weights: list[tuple[Tensor, Tensor]]
    sites: list[str]
    by_token: bool
    started: float
    towards: tuple[Float[Tensor, "text joint"], list[Any]] | None = None
    itself: bool = False

    @classmethod
    def of(cls, model: Model, tower: str, by_token: bool, towards: Towards) -> Reading:
        """How the terms of a tower are read, towards directions if there are any."""
        started, end = time.perf_counter(), ended(model, tower)
        weights = [head_weights(model, tower, layer) for layer in range(model.sites.towers()[tower])]
        sites = [f"{tower}.*.attn.z", f"{tower}.*.mlp.out", *end.sites]
        sites += [f"{tower}.*.attn.pattern", f"{tower}.*.attn.v"] if by_token else []
        itself = isinstance(towards, str)
        if itself and towards != ITSELF:
            raise MethodError(
                f"towards '{towards}'", expected=f"a bank of texts, directions, or '{ITSELF}'",
                do="make a bank with `text_bank(model, texts)`",
            )  # fmt: skip
        aims = None if towards is None or isinstance(towards, str) else aimed(towards, len(end.offset), model.name)
        end = end if aims is None else _contracted(end, aims[0])
        return cls(model, end, weights, sites, by_token, started, aims, itself)

    def terms(self, rows: Rows, batch: int, progress: bool) -> Iterator[tuple[dict[str, Tensor], Inputs]]:
        """The terms of each batch, and the batch."""
        model, tower = self.model, self.end.tower
        how: dict[str, Any] = {"batch": batch, "what": "decomposing", "progress": progress}
        for run in recorded(model, rows, tower, self.sites, kind="" if self.by_token else self.end.kind, **how):
            found = self._of_itself(run) if self.itself else _terms(run, self.end, self.weights, self.by_token)
            if self.towards is not None and "pool_mlp" in found:
                found["pool_mlp"] = found["pool_mlp"] @ self.towards[0].to(found["pool_mlp"]).T
            yield {name: value.cpu() for name, value in found.items()}, run.inputs

    def _of_itself(self, run: Run) -> dict[str, Tensor]:
        """Every term towards the embedding of its own row: towards those of all rows of the batch, and of these one."""
        own = unit(_embedding(run, self.end, torch.promote_types(run[self.end.space].dtype, torch.float32)))
        found = _terms(run, _contracted(self.end, own), self.weights, self.by_token)
        if "pool_mlp" in found:
            found["pool_mlp"] = found["pool_mlp"] @ own.to(found["pool_mlp"]).T
        every = torch.arange(len(own))
        return {name: value if name == "embedding" else value[every, ..., every, None] for name, value in found.items()}

    def whole(self, parts: list[dict[str, Tensor]], inputs: Inputs | None) -> tuple[xarray.Dataset, Provenance]:
        """Batches as one, whose sum is checked, and where it came from."""
        data = _dataset(parts, self.end, inputs, self.towards, self.itself)
        _check(data, self.model.dtype)
        aims: dict[str, Any] = {"towards": ITSELF} if self.itself else {}
        aims |= {} if self.towards is None else {"towards": len(self.towards[1])}
        told = Provenance.of(
            METHOD, SOURCE, started=self.started, model=self.model, sites=tuple(self.sites), tower=self.end.tower,
            by_token=self.by_token, space=self.end.space, read_at=self.end.at,
            **aims,
        )  # fmt: skip
        return data, told


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
    found = {
        "embed": read(f"{tower}.0.resid_pre"), "heads": torch.stack(head, 1), "biases": torch.stack(bias, 1),
        "mlps": torch.stack(mlp, 1), "embedding": _embedding(run, end, accurate).to(matrices),
    }  # fmt: skip
    if end.pool is not None:
        found["pool_mlp"] = run[f"{tower}.pool.mlp.out"].to(matrices)[:, 0]
    return found | ({"head_tokens": torch.stack(token, 1)} if by_token else {})


def _embedding(run: Run, end: Readout, dtype: torch.dtype) -> Float[Tensor, "row joint"]:
    """The model's own output where the tower is read."""
    space = run[end.space].to(dtype)
    return space[torch.arange(len(space)), end.positions(run.inputs)] if space.dim() == 3 else space


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
    towards: tuple[Float[Tensor, "text joint"], list[Any]] | None, itself: bool,
) -> xarray.Dataset:  # fmt: skip
    along = "joint" if towards is None and not itself else "text"
    axes = {
        "embed": ("item", along), "pool_mlp": ("item", along), "embedding": ("item", "joint"),
        "heads": ("item", "layer", "head", along), "biases": ("item", "layer", along), "mlps": ("item", "layer", along),
        "head_tokens": ("item", "layer", "head", "token", along),
    }  # fmt: skip
    whole = {name: (axes[name], _joined([part[name] for part in parts]).numpy()) for name in parts[0]}
    accurate = parts[0]["embed"].dtype
    constants = xarray.Dataset({
        name: ("joint" if itself else along, value.to(accurate).numpy(force=True))
        for name, value in (("norm_bias", end.norm_bias), ("offset", end.offset))
    })  # fmt: skip
    data = xarray.Dataset(whole)
    length = (data["embedding"] ** 2).sum("joint") ** 0.5
    if itself:
        aim = (data["embedding"] / length).expand_dims(text=[ITSELF], axis=1)
        constants = constants.map(lambda one: xarray.dot(one, aim, dim="joint"))
    data = data.merge(constants)
    if towards is not None:
        data["towards"] = ("text", "joint"), towards[0].to(accurate).numpy(force=True)
        data = data.assign_coords(text=towards[1])
    data = data.assign_coords(layer=np.arange(data.sizes["layer"]), head=np.arange(data.sizes["head"]))
    total = data["embed"] + data["heads"].sum(("layer", "head")) + (data["biases"] + data["mlps"]).sum("layer")
    total = total + data["pool_mlp"] if "pool_mlp" in data else total
    model = length if itself else data["embedding"]
    model = model if towards is None else xarray.dot(data["embedding"], data["towards"], dim="joint")
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
