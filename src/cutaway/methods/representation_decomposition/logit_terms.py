"""The terms of a logit at one position: which models have them, and what each head, MLP and bias adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target
from cutaway.model.weights import Readout, head_weights, mlp_weights, norms_behind, readout

TOWER = "text"


def exact(x: Tensor, near: Tensor | None = None) -> Tensor:
    """The same numbers in single precision at least, off the graph; on the device of another tensor if given."""
    device = x.device if near is None else near.device
    return x.detach().to(device, torch.promote_types(x.dtype, torch.float32))


def check_target(target: Target | None) -> None:
    """Raise MethodError unless the number is a logit or a difference of two."""
    if len(getattr(target, "signs", ())) not in (1, 2):  # a function of one's own has none
        raise MethodError(
            f"{target!r} is no sum over components", expected="a logit, or a difference of two",
            exists='logit("dog"), logit_diff("dog", "cat")', do="give one of these; `model.sweep` takes any target",
        )  # fmt: skip


def check_model(model: Model) -> None:
    """Raise MethodError, or SiteError, for a model whose logits are no sum over heads and MLPs, with the reason."""
    blocks = model.towers[TOWER].blocks if TOWER in model.towers else ()
    kind = type(model.towers[TOWER].module).__name__ if blocks else type(model.module).__name__
    lost = [
        (type(block).__name__, part)
        for layer, block in enumerate(blocks)
        for part in ("attn.z", "mlp.out")
        if f"{TOWER}.{layer}.{part}" not in model.sites
    ]
    why = ""
    if not blocks or f"{TOWER}.logits" not in model.sites or not model.towers[TOWER].causal:
        why = f"{kind} does not write"
    elif lost:
        why = f"{lost[0][0]} has no '{lost[0][1]}': what it adds is not made of heads and an MLP"
    elif norms_behind(model, TOWER):
        why = f"{type(blocks[0]).__name__} has its norms behind its sums (post-norm), so nothing adds up to its end"
    elif f"{TOWER}.norm.scale" not in model.sites or readout(model, TOWER).space != f"{TOWER}.logits":
        why = f"{kind} has no last norm that the unembedding reads"
    if why:
        raise MethodError(
            why, expected="a decoder whose layers add to one stream that a last norm and an unembedding read",
            exists=", ".join(model.towers) or "no named tower",
            do="`model.sweep` and `model.gradients` explain its logits without a sum",
        )  # fmt: skip
    head_weights(model, TOWER, 0)


# --- the sum ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What is read of the run at the position of the target, and the terms of it; k counts directions in words."""

    model: Model
    end: Readout
    by_neuron: bool

    @property
    def sublayers(self) -> list[Literal["attn", "cross"]]:
        """The kinds of attention that write."""
        return ["attn", "cross"] if f"{TOWER}.0.cross.z" in self.model.sites else ["attn"]

    @property
    def layers(self) -> range:
        """The layers of the tower."""
        return range(self.model.sites.towers()[TOWER])

    @property
    def sites(self) -> list[str]:
        """What the sum needs of a run."""
        last = f"{self.layers[-1]}.resid_post"
        once = [f"{TOWER}.{part}" for part in ("0.resid_pre", last, "norm.scale", "final", "logits")]
        each = [*(f"{kind}.z" for kind in self.sublayers), "mlp.out", *(["mlp.post"] if self.by_neuron else [])]
        return once + [f"{TOWER}.*.{part}" for part in each]

    def terms(
        self, run: Run, toward: Float[Tensor, "row k d_model"], offset: Float[Tensor, "row k"]
    ) -> dict[str, Tensor]:
        """Every term by name, (row, k, …), and `u`: what the model reads of the last state, (row, k, d_model)."""
        scaled = toward * exact(self.end.gain)
        scaled = scaled - scaled.mean(-1, keepdim=True) if self.end.centred else scaled
        u = scaled / exact(run[f"{TOWER}.norm.scale"], toward)[..., None]

        def read(site: str) -> Tensor:
            return torch.einsum("rd,rkd->rk", exact(run[site][:, 0], u), u)

        found = {"embed": read(f"{TOWER}.0.resid_pre"), "norm_bias": toward @ exact(self.end.bias), "offset": offset}
        made = torch.einsum("rd,rkd->rk", exact(run[f"{TOWER}.final"][:, 0], toward), toward)
        found["rounding"] = made - read(f"{TOWER}.{self.layers[-1]}.resid_post") - found["norm_bias"]
        for kind in self.sublayers:
            pairs = [self._heads(run, u, layer, kind) for layer in self.layers]
            of = "" if kind == "attn" else "cross_"
            found[f"{of}heads"], found[f"{of}biases"] = (torch.stack(part, 2) for part in zip(*pairs, strict=True))
        found["mlps"] = torch.stack([read(f"{TOWER}.{layer}.mlp.out") for layer in self.layers], 2)
        return {"u": u, **found}

    def _heads(self, run: Run, u: Tensor, layer: int, kind: Literal["attn", "cross"]) -> tuple[Tensor, Tensor]:
        weight, bias = head_weights(self.model, TOWER, layer, kind)
        wrote = torch.einsum("rhe,hed->rhd", exact(run[f"{TOWER}.{layer}.{kind}.z"][:, 0], u), exact(weight, u))
        return torch.einsum("rhd,rkd->rkh", wrote, u), u @ exact(bias, u)

    def neurons(self, run: Run, u: Float[Tensor, "row d_model"]) -> dict[str, Any]:
        """Every MLP by hidden unit, and what its bias adds."""
        found, biases = [], []
        for layer in self.layers:
            matrix, bias = (exact(part, u) for part in mlp_weights(self.model, TOWER, layer))
            acts = exact(run[f"{TOWER}.{layer}.mlp.post"][:, 0], u)
            found.append(acts * (u @ matrix))
            biases.append(u @ bias)
        neuron, bias = torch.stack(found, 1), torch.stack(biases, 1)
        return {"neurons": (("row", "layer", "neuron"), neuron.cpu().numpy()),
                "mlp_biases": (("row", "layer"), bias.cpu().numpy())}  # fmt: skip


def directions(
    model: Model, end: Readout, target: Target, rows: int, pairs: int, seed: int
) -> tuple[Float[Tensor, "row k d_model"], Float[Tensor, "row k"]]:
    """The unembedding of the words of each row minus that of their rivals, then the same of random ones; its bias."""
    own = target.directions(model)
    assert own is not None
    vocab, draw = end.weight.shape[1], torch.Generator().manual_seed(seed)
    first = torch.randint(vocab, (pairs,), generator=draw)
    second = (first + torch.randint(1, vocab, (pairs,), generator=draw)) % vocab
    random = end.directions(torch.stack([first, second][: len(target.signs)], 1), target.signs)
    each = [(mine.expand(rows, *mine.shape[1:]), chance) for mine, chance in zip(own, random, strict=True)]
    toward, offset = (torch.cat([mine[:, None], chance.expand(rows, *chance.shape)], 1) for mine, chance in each)
    return toward, offset


def places(run: Run) -> Tensor:
    """Where in its padded row each row was read."""
    site = f"{TOWER}.0.resid_pre"
    kept, rows = run.part.get(site, {}).get("token"), len(run[site])
    return torch.zeros(rows, dtype=torch.long) if kept is None else kept.places.expand(rows, 1)[:, 0]
