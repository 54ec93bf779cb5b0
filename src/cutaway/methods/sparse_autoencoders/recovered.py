"""What a model loses when a dictionary's reconstruction stands in the place of what it reconstructs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError, near
from cutaway.model.calls import Denoise
from cutaway.model.dictionary import At, Dictionary
from cutaway.model.edits import Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import Target, answer, denoising_error, numbers
from cutaway.model.tokens import KINDS
from cutaway.questions.rows import tracked
from cutaway.store.reducers import Mean


@dataclass(frozen=True)
class own_text(Target):  # noqa: N801
    """The log-probability a contrastive model gives picture i of text i among all texts of the run.

    log exp(s_ii) / sum_j exp(s_ij), s its scaled cosines. It depends on which rows are run together.
    """

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """One number a picture."""
        scores = run.logits
        if scores.dim() != 2 or scores.shape[0] != scores.shape[1]:
            raise MethodError(
                f"scores of shape {tuple(scores.shape)} tell of no pairs", expected="as many texts as pictures",
                do="`model.inputs(image=pictures, text=captions)`",
            )  # fmt: skip
        return scores.float().log_softmax(-1).diagonal()

    @property
    def unit(self) -> str:
        """Natural units of information."""
        return "nats"


@dataclass(frozen=True)
class Recovered:
    """The mean of a target over `rows` rows: of the `clean` model, with the reconstruction, and ablated.

    `mean` and `zero`: with the mean of each kind of position, or with nothing, in the reconstruction's place.
    """

    rows: int
    clean: float
    spliced: float
    mean: float
    zero: float

    @property
    def of_mean(self) -> float:
        """(spliced - mean) / (clean - mean)."""
        return _share(self.spliced, self.mean, self.clean)

    @property
    def of_zero(self) -> float:
        """(spliced - zero) / (clean - zero)."""
        return _share(self.spliced, self.zero, self.clean)


def loss_recovered(
    model: Model, dictionary: Dictionary, inputs: Inputs | Sequence[Inputs],
    target: Callable[[Run], Tensor] | None = None, *, kinds: Sequence[str] | None = None, progress: bool = True,
) -> Recovered:  # fmt: skip
    """How much of what a model says comes back when a dictionary's reconstruction stands at its target site.

    recovered = (L_spliced - L_ablated) / (L_clean - L_ablated), L the mean of the `target` over rows; ablated is the
    site at 0, or at the mean of its positions of one kind (over all inputs). 1: as good as the clean model; 0: as good
    as nothing; below 0: worse than that. The reconstruction is that of the clean run, written by `Set` at every
    position but padding, or at those of some `kinds`; a row of `attn.z` is all heads of a position. Without a `target`:
    `answer(mean=True)` of inputs with answers, `denoising_error` of one evaluation of a denoiser on a noised picture,
    `own_text` of pictures and their texts.

    Units: shares, and those of the target. MethodError where a site has no vector a position, or where no target fits.
    Source: Gao et al. 2024, arXiv 2406.04093 (section 4.1), and Karvonen et al. 2025, arXiv 2503.09532, who ablate to
    zero alone. Zero is far from all that a model has seen, and says as much of that: read `of_mean`.
    What it can NOT tell: that the features are those the model uses. Where ablation does little, the share is noise.

    >>> import cutaway
    >>> from cutaway.model.dictionary import Neurons
    >>> model = cutaway.load("tiny:llama")
    >>> inputs = model.inputs(text=["a red", "a blue"], answer=["dog", "cat"])
    >>> loss_recovered(model, Neurons("text.1.resid_post", torch.zeros(32)), inputs, progress=False).of_mean
    1.0
    """
    batches = [inputs] if isinstance(inputs, Inputs) else list(inputs)
    if not batches:
        raise MethodError("no inputs", expected="one batch at least", do="`model.inputs(…)`")
    target = target or usual_target(batches[0])
    sites = [model.sites.one(dictionary.site), model.sites.one(dictionary.target)]
    _check(sites, batches)
    sums, means = _Sums(), dict[int, Mean]()
    for one in tracked(batches, "splicing", len(batches), show=progress):
        place = _Place.of(model, dictionary, one, sites, kinds)
        sums.add("clean", numbers(target, place.run))
        for name, value in (("spliced", place.made(dictionary)), ("zero", torch.zeros_like(place.y))):
            sums.add(name, numbers(target, model.run(one, edits=[place.edit(value)])))
        place.count(means)
    for one in tracked(batches, "ablating", len(batches), show=progress):
        place = _Place.of(model, dictionary, one, sites, kinds, stop=True)
        sums.add("mean", numbers(target, model.run(one, edits=[place.edit(place.filled(means))])))
    return Recovered(sums.rows["clean"], *(sums.mean(name) for name in ("clean", "spliced", "mean", "zero")))


def usual_target(inputs: Inputs) -> Target:
    """The number by which a model is judged on such inputs; MethodError where there is none."""
    if inputs.answers:
        return answer(mean=True)
    if isinstance(inputs.call, Denoise) and inputs.call.truth is not None:
        return denoising_error()
    if {"pixel_values", "input_ids"} <= set(inputs.tensors) and {"vision", "text"} <= set(inputs.tokens):
        return own_text()
    raise MethodError(
        "nothing says how well the model does on these inputs", expected="a target",
        exists="answers (`answer=…`), one evaluation of a denoiser (`step=…, image=…`), pictures with texts",
        do="make such inputs, or pass `target=`",
    )  # fmt: skip


class _Sums:
    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self.rows: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        self.total[name] = self.total.get(name, 0.0) + float(values.detach().double().sum())
        self.rows[name] = self.rows.get(name, 0) + len(values)

    def mean(self, name: str) -> float:
        return self.total[name] / self.rows[name]


@dataclass(frozen=True, eq=False)
class _Place:
    """What a run holds where a dictionary reads and where it stands, and which positions are written."""

    run: Run
    target: Site
    x: Float[Tensor, "*rows d_in"]
    y: Float[Tensor, "*rows2 d_out"]
    at: At
    written: Bool[Tensor, "..."]

    @classmethod
    def of(
        cls, model: Model, dictionary: Dictionary, inputs: Inputs, sites: Sequence[Site], kinds: Sequence[str] | None,
        *, stop: bool = False,
    ) -> _Place:  # fmt: skip
        run = model.run(inputs, record=[str(site) for site in sites], stop=stop)
        x, y = (_in_rows(site, run[site].detach()) for site in sites)
        at = _at(inputs, sites[0], x)
        written = torch.ones(y.shape[: len(x.shape) - 1], dtype=torch.bool) if at.kind is None else _of(at.kind, kinds)
        lacks = [name for name in dictionary.asks if getattr(at, name) is None]
        if lacks or (at.kind is None and kinds is not None):
            raise MethodError(
                f"nothing is known of the {lacks[0] if lacks else 'kind'} of positions of '{sites[0]}'",
                expected="what the dictionary and the options ask", do="leave `kinds` out, or take another site",
            )  # fmt: skip
        return cls(run, sites[1], x, y, at, written)

    def made(self, dictionary: Dictionary) -> Tensor:
        """What the dictionary makes of x."""
        exact = self.x if self.x.dtype == torch.float64 else self.x.float()
        with torch.no_grad():
            return dictionary.decode(dictionary.encode(exact, self.at), exact, self.at).to(self.y).view_as(self.y)

    def filled(self, means: dict[int, Mean]) -> Tensor:
        """The mean of each kind at its positions."""
        made = torch.zeros_like(self.y)
        for kind, mean in means.items():
            made[self._kinds() == kind] = mean.value.to(made)
        return made

    def count(self, means: dict[int, Mean]) -> None:
        """Take the written positions into the mean of their kind."""
        kinds = self._kinds()
        for kind in kinds[self.written].unique().tolist():
            means.setdefault(kind, Mean()).add(self.y[(kinds == kind) & self.written])

    def edit(self, value: Tensor) -> Set:
        """These values at the positions that are written, the others as they are."""
        whole = torch.where(self.written[..., None].to(self.y.device), value, self.y).view_as(self.run[self.target])
        return Set(self.target, whole[0] if self.target.axes[0] == "step" else whole)

    def _kinds(self) -> Tensor:
        return torch.zeros(self.written.shape, dtype=torch.long) if self.at.kind is None else self.at.kind


def _at(inputs: Inputs, site: Site, x: Tensor) -> At:
    """What is known of the positions of a site: kinds by its token map, the step of one evaluation of a denoiser."""
    lead = x.shape[:-1]
    kind = None
    if "token" in site.axes:
        words = inputs.map_for(site, "token", lead[-1]).kind
        numbered = torch.tensor([[KINDS.index(str(word)) for word in row] for row in words])
        kind = numbered.expand(lead).contiguous()
    call = inputs.call
    step = torch.full(lead, call.step) if isinstance(call, Denoise) else None
    return At(kind, step, call.steps if isinstance(call, Denoise) else 1)


def _of(kind: Int[Tensor, "*rows"], kinds: Sequence[str] | None) -> Bool[Tensor, "*rows"]:
    """The positions of some kinds; of all but padding where none is named."""
    if kinds is None:
        return kind != KINDS.index("pad")
    odd = [name for name in kinds if name not in KINDS]
    if odd:
        raise MethodError(f"no kind is called '{odd[0]}'", exists=near(odd[0], KINDS[1:]), do="name one")
    return torch.isin(kind, torch.tensor([KINDS.index(name) for name in kinds]))


def _check(sites: Sequence[Site], batches: Sequence[Inputs]) -> None:
    if any(one.call.loops for one in batches):
        raise MethodError(
            "a whole drawing has other states at every step once one was changed",
            expected="one evaluation of a denoiser", do="`model.inputs(prompt=…, step=3, image=…)`",
        )  # fmt: skip
    for site in sites:
        if site.axes[-2:-1] not in (("token",), ("batch",)) and not _of_heads(site):
            raise MethodError(
                f"'{site}' has no vector a position", expected="a site whose last axes are token and unit, or `attn.z`",
                exists=", ".join(site.axes), do="take one such as `text.3.resid_post`",
            )  # fmt: skip


def _of_heads(site: Site) -> bool:
    return site.part == "attn.z" and site.axes[-2:] == ("head", "d_head")


def _in_rows(site: Site, values: Tensor) -> Float[Tensor, "*rows d"]:
    """One vector a position: heads lie behind one another, as the output projection takes them."""
    return values.flatten(-2) if _of_heads(site) else values


def _share(spliced: float, ablated: float, clean: float) -> float:
    return (spliced - ablated) / (clean - ablated) if clean != ablated else float("nan")
