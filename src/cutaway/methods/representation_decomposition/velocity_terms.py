"""The terms of what a denoiser predicts at each patch along a direction: embedding, heads, MLPs, constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import Word, sums, words
from cutaway.methods.representation_decomposition.logit_terms import exact
from cutaway.model.denoiser_end import DenoiserEnd, denoiser_end
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.session import Reading
from cutaway.model.tokens import TokenMap
from cutaway.model.writes import Writes, picture_writes

TOWER = "denoiser"
SOURCES = ("words", "other text", "picture")
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Sum:
    """The sum of one model: how it is read at its end, what its blocks write, the patches and words of the inputs."""

    end: DenoiserEnd
    writes: tuple[Writes, ...]
    tokens: TokenMap
    by_word: bool

    @classmethod
    def of(cls, model: Model, inputs: Inputs, by_word: bool) -> Sum:
        """Of these inputs; SiteError for a denoiser without such an end, MethodError without patches and words."""
        end, writes = denoiser_end(model), picture_writes(model)
        tokens = inputs.tokens.get(f"{TOWER}.joint")
        if tokens is None:
            raise MethodError(
                "it is not known which positions are patches and which are words", expected="a drawing of a prompt",
                exists=", ".join(inputs.tokens) or "no token map", do="make the inputs with `model.inputs(prompt=…)`",
            )  # fmt: skip
        return cls(end, writes, tokens, by_word)

    @property
    def sites(self) -> list[str]:
        """What it needs of a run."""
        first, last = f"{TOWER}.0.image.resid_pre", f"{TOWER}.norm.scale"
        inside = [site for one in self.writes for site in (one.pattern, one.v)] if self.by_word else []
        each = [*(site for one in self.writes for site in one.sites), *inside]
        return [first, last, *self.end.sites, *map(str, each), f"{TOWER}.out"]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return int(self.tokens.row.max()) + 1, int(self.tokens.col.max()) + 1

    @property
    def own(self) -> Bool[Tensor, "position"]:
        """Which joint positions are patches, in reading order."""
        return torch.from_numpy(self.tokens.row[0] >= 0)

    def predicted(self, run: Run) -> Float[Tensor, "row patch channel"]:
        """What the denoiser gives at each patch."""
        return self.end.parted(run[f"{TOWER}.out"])

    def terms(self, run: Run, toward: Float[Tensor, "row patch channel"]) -> Terms:
        """Every term but what the heads bring from where: (row, …, patch), with `total` and `rest`."""
        u = self._read(run, toward)
        found = {"embed": (run[f"{TOWER}.0.image.resid_pre"] * u).sum(-1)}
        each = [self._block(run, u, one) for one in self.writes]
        found |= {name: torch.stack([one[name] for one in each], 1) for name in ("heads", "biases", "mlps")}
        found["constant"] = (self.end.constants(run).to(u)[:, None] * toward).sum(-1)
        found["total"] = (self.predicted(run) * toward).sum(-1)
        summed = found["embed"] + found["constant"] + found["heads"].sum((1, 2))
        found["rest"] = found["total"] - summed - found["biases"].sum(1) - found["mlps"].sum(1)
        return found

    def brought(self, run: Run, toward: Float[Tensor, "row patch channel"], spoken: list[list[Word]]) -> Terms:
        """What heads bring from `sources` (row, layer, head, source, patch), and from each of the words through all."""
        u, kinds, own = self._read(run, toward), self._sources(len(toward)).to(toward), self.own
        sources, through = [], torch.zeros(())
        for one in self.writes:
            toward_head = self._heads(run, u, one)
            read = torch.einsum("bphe,bkhe->bhpk", toward_head, run[one.v])
            part = read * run[one.pattern][:, :, own.to(read.device)]
            sources.append(torch.einsum("bhpk,bsk->bhsp", part, kinds))
            through = through.to(part) + part.sum(1)
        weights = sums(spoken, len(own)).to(toward)
        return {"sources": torch.stack(sources, 1), "words": torch.einsum("bpk,bwk->bwp", through, weights)}

    def _read(self, run: Run, toward: Tensor) -> Float[Tensor, "row patch d_model"]:
        """What is read of the last state: u = Mᵀ d / s."""
        scale = run[f"{TOWER}.norm.scale"][..., None]
        return torch.einsum("bpc,bcd->bpd", toward, self.end.matrices(run).to(toward)) / scale

    def _heads(self, run: Run, u: Tensor, one: Writes) -> Float[Tensor, "row patch head d_head"]:
        """What is read of the results of the heads of one block."""
        return torch.einsum("bpd,hed->bphe", u * run[one.gate][:, None], one.weight.to(u))

    def _block(self, run: Run, u: Tensor, one: Writes) -> Terms:
        gate, other = (run[site][:, None] for site in (one.gate, one.mlp_gate))
        z, mlp = self._patches(run[one.z]), self._patches(run[one.mlp])
        mlp = mlp if one.mlp_weight is None else mlp @ one.mlp_weight.to(u)
        return {
            "heads": (z * self._heads(run, u, one)).sum(-1).transpose(1, 2),
            "biases": (gate * u) @ one.bias.to(u),
            "mlps": (other * mlp * u).sum(-1),
        }

    def _patches(self, value: Float[Tensor, "row position *rest"]) -> Float[Tensor, "row patch *rest"]:
        """The patches of what may be over the joint positions."""
        return value[:, self.own.to(value.device)] if value.shape[1] == len(self.own) else value

    def _sources(self, rows: int) -> Float[Tensor, "row source position"]:
        """Which positions are words, text that is no word, and patches."""
        kind, copies = self.tokens.kind, rows // self.tokens.batch
        patch, word = torch.from_numpy(self.tokens.row >= 0), torch.from_numpy(kind == "text")
        return torch.stack([word & ~patch, ~word & ~patch, patch], 1).double().repeat_interleave(copies, 0)


@dataclass
class Gathered:
    """The terms of every step of a run as it goes: a step is put together when all its readings are there."""

    sum: Sum
    inputs: Inputs
    towards: Tensor | None
    steps: Collection[int] | None
    draws: int
    seed: int
    now: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    step: int = -1
    made: dict[int, dict[str, Terms]] = field(default_factory=dict)
    toward: dict[int, Float[Tensor, "row patch channel"]] = field(default_factory=dict)
    spoken: list[list[Word]] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        """One reading."""
        if reading.step != self.step:
            self.close()
            self.step = reading.step
        if self.steps is None or reading.step in self.steps:
            for at, name in enumerate(reading.guidance):
                self.now.setdefault(name, {})[str(reading.site)] = exact(reading.value[at]).clone()

    def close(self) -> None:
        """The step is over: put it together, and let go of what was read."""
        if self.now:
            runs = {name: Run(None, self.inputs, activations=found) for name, found in self.now.items()}
            self.made[self.step] = self._step(runs)
            self.now = {}

    @property
    def rows(self) -> tuple[str, ...]:
        """The guidance rows, by name."""
        return tuple(next(iter(self.made.values())))

    @property
    def along(self) -> str:
        """Which direction is taken where none is given, in words."""
        return "along what guidance adds" if {"cond", "uncond"} <= set(self.rows) else "along itself"

    def _step(self, runs: dict[str, Run]) -> dict[str, Terms]:
        said = {name: self.sum.predicted(run) for name, run in runs.items()}
        toward = self.toward[self.step] = directions(said, self.towards)
        copies = len(toward) // self.sum.tokens.batch
        self.spoken = [words(self.sum.tokens, row) for row in range(self.sum.tokens.batch) for _ in range(copies)]
        found = {name: self.sum.terms(run, toward) for name, run in runs.items()}
        for name, run in runs.items():
            if self.sum.by_word:
                found[name] |= self.sum.brought(run, toward, self.spoken)
            chance = [self.sum.terms(run, other) for other in self._others(toward)]
            for term in ("heads", "mlps") if chance else ():
                found[name][f"{term}_chance"] = torch.stack([one[term].mean(-1) for one in chance])
        return found

    def _others(self, toward: Float[Tensor, "row patch channel"]) -> Iterator[Tensor]:
        """The same directions, each at another patch."""
        dice = torch.Generator().manual_seed(self.seed)
        for _ in range(self.draws):
            yield toward[:, torch.randperm(toward.shape[1], generator=dice).to(toward.device)]


def directions(
    said: dict[str, Float[Tensor, "row patch channel"]], towards: Tensor | None
) -> Float[Tensor, "row patch channel"]:
    """A unit vector at each patch: along what guidance adds, else what is predicted, or along what was given."""
    own = said["cond"] if "cond" in said else next(iter(said.values()))
    found = own - said["uncond"] if {"cond", "uncond"} <= set(said) else own
    if towards is not None:
        given = exact(towards, own).to(own)
        if given.dim() > 3 or _fits(given.shape, own.shape) != own.shape:
            raise MethodError(
                f"directions of shape {tuple(towards.shape)} do not fit what is predicted",
                expected=f"(picture, patch, channel) = {tuple(own.shape)}, or what is spread over it",
                do="`denoiser_end(model).parted(latents)` brings latents into this form",
            )  # fmt: skip
        found = given.expand(own.shape)
    return found / found.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)


def _fits(one: Sequence[int], other: Sequence[int]) -> Sequence[int]:
    """The shape that both are spread to; () where there is none."""
    try:
        return torch.broadcast_shapes(one, other)
    except RuntimeError:
        return ()
