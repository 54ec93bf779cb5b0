"""Head relevance vectors: which heads of a denoiser look for the words of a concept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.joint_keys import Beside
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.cross_attention.spoken import positions_of
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.drawing import alone
from cutaway.model.edits import Scale
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.steps import drawn_steps
from cutaway.model.tokens import TokenMap
from cutaway.questions.rows import tracked

METHOD = "head_relevance"
SOURCE = "Park et al. 2024, arXiv 2412.02237 (Head Relevance Vectors)"
Concepts = str | Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False, repr=False)
class HeadRelevance(Result):
    """How often the patches of each head look most for a word of each concept, of all calls of that head; in [0, 1].

    `relevance` (concept, head) is that share, which over concepts adds up to 1 for each head; `random` (concept, head)
    the same with all words dealt to the concepts by chance; `even` what each would be if no head preferred any. Heads
    are named by layer and number, "3.1".
    """

    main: ClassVar[str] = "relevance"

    def order(self, concept: str) -> list[str]:
        """The heads, those that are most relevant to a concept in front."""
        known = [str(name) for name in self["concept"].values]
        if concept not in known:
            raise MethodError(f"'{concept}' is none of the concepts", exists=", ".join(known), do="name one of these")
        row = self["relevance"].sel(concept=concept)
        return [str(self["head"].values[at]) for at in np.argsort(-row.values, kind="stable")]

    def summary(self) -> Any:
        """For each concept the three most relevant heads, beside chance: the largest of `random`, and an even share."""
        import pandas

        rows = []
        for concept in map(str, self["concept"].values):
            heads = self.order(concept)[:3]
            said = [f"{head}: {float(self['relevance'].sel(concept=concept, head=head)):.2f}" for head in heads]
            rows.append((concept, ", ".join(said), float(self["random"].sel(concept=concept).max())))
        return pandas.DataFrame(rows, columns=["concept", "most relevant heads", "largest by chance"])

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["relevance"], "share of calls in which a head looks most for a concept")


def head_relevance(
    model: Model, inputs: Inputs, concepts: Concepts, *, guidance: str = "cond", seed: int = 0, progress: bool = True
) -> HeadRelevance:
    """Which heads of a denoiser look for which concepts: a number for each head and concept.

    H[c, h] = the share of the calls of head h (steps, and pictures) in which c = argmax over concepts of mean over
    patches x and tokens k of w_c of softmax(q_h(x) Kᵀ / √d), where K are the keys of the begin and of one word w_c of
    each concept, drawn anew by `seed` at each call. Queries are those of the drawing of `inputs`, whatever its prompt;
    keys are those of each word as a prompt of its own. With joint attention (SD3, Flux), where keys of words depend on
    the picture and patches look at patches too, K are the keys of the patches and of w_c: all words go through the
    text's side of the denoiser beside each step of this drawing, as in `concept_attention`, and change nothing of it.
    `concepts` are words by name of their concept, or words that are a concept each (one text with commas between).
    `weaken_heads` makes the edits that check it.

    Units: shares of calls, 0 to 1; 1 / concepts is even. Source: Park et al. 2024, 2412.02237, section 3, who draw 2100
    prompts, and scale each concept's vector to add up to the number of heads; joint attention is not in it. MethodError
    for a model whose patches see no words. What it can NOT tell: that the head draws the concept. A word that has
    larger keys, or fits every patch a little, wins calls too; a concept that is never first has no head. Of few words
    or calls heads keep to a concept before training as well.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a red dog", seed=0, steps=2)
    >>> found = head_relevance(model, inputs, {"animal": ["dog", "cat"], "colour": ["red", "blue"]}, progress=False)
    >>> found["relevance"].dims, float(found["relevance"].sum("concept").mean())
    (('concept', 'head'), 1.0)
    """
    started = time.perf_counter()
    named = _named(concepts)
    sites = [str(site).removesuffix("pattern") for site in looking(model)]
    if not inputs.call.loops:
        raise MethodError(
            f"heads are counted over the steps of a drawing; this is {inputs.call}", expected="a whole drawing",
            do="make the inputs without `step=`",
        )  # fmt: skip
    spoken = list(dict.fromkeys(word for words in named.values() for word in words))
    steps = drawn_steps(model.module, inputs)
    counted = _Counted({}, spoken, list(named.values()), seed)
    if sites[0].endswith("cross."):
        counted.keys = _keys(model, inputs, spoken, sites)
        bar = tracked(range(steps * len(sites)), "drawing", show=progress)

        def add(reading: Reading) -> None:
            next(bar, None)
            counted.add(str(reading.site), reading.value[0])

        model.run(inputs, record=[f"{site}q" for site in sites], into=add, guidance=guidance, output="pt")
    else:
        words = Beside.of(model, inputs, spoken, guidance)
        for step in tracked(range(words.watch()), "words", show=progress):
            counted.keys = words.keys(step)
            for name, queries in words.queries(step).items():
                counted.add(name, queries)
    return HeadRelevance(
        counted.data(list(named)),
        Provenance.of(
            METHOD, SOURCE, started=started, model=model, sites=tuple(f"{site}q" for site in sites), seed=seed,
            guidance=guidance, concepts=named, prompt=inputs.tensors.get("prompt"),
        ),
    )  # fmt: skip


def weaken_heads(
    model: Model, inputs: Inputs, heads: Sequence[str], said: str | None = None, *, factor: float = -2.0,
    guidance: str = "cond",
) -> list[Scale]:  # fmt: skip
    """Edits that multiply what patches give to words in some heads: all of the prompt, or one that is `said`.

    Ordered weakening: A[x, w] <- factor A[x, w] in each of the `heads` ("layer.head"), at every step; rows then no
    longer add up to 1. Source: Park et al. 2024, 2412.02237, section 4, with their factor. Raises MethodError for heads
    that are not there.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> weaken_heads(model, model.inputs(prompt="a red dog", steps=2), ["1.0", "1.3"], "dog")
    [Scale('denoiser.1.cross.pattern', -2.0, head=[0, 3], key=<1x16 bool>, guidance='cond')]
    """
    layers: dict[str, list[int]] = {}
    known = {str(site.layer): site for site in looking(model)}
    for head in heads:
        layer, _, number = head.rpartition(".")
        if layer not in known or not number.isdigit():
            raise MethodError(
                f"'{head}' is no head that looks at words", expected="layer.head",
                exists=f"the layers {', '.join(known)}",
            )  # fmt: skip
        layers.setdefault(layer, []).append(int(number))
    crossed = all(site.part == "cross.pattern" for site in known.values())
    tokens = inputs.tokens["text" if crossed else "denoiser.joint"]
    key = torch.from_numpy(tokens.kind == "text") if said is None else positions_of(tokens, said)
    query = None if crossed else torch.from_numpy(tokens.row >= 0)
    return [
        Scale(str(known[layer]), factor, head=sorted(numbers), query=query, key=key, guidance=guidance)
        for layer, numbers in layers.items()
    ]


def _named(concepts: Concepts) -> dict[str, list[str]]:
    """Words by the name of their concept."""
    if isinstance(concepts, Mapping):
        named = {name: list(words) for name, words in concepts.items()}
    else:
        given = concepts.split(",") if isinstance(concepts, str) else concepts
        named = {word.strip(): [word.strip()] for word in given}
    if len(named) < 2 or not all(words and all(words) for words in named.values()):
        raise MethodError(
            f"{len(named)} concepts have nothing to be told apart from", expected="two or more, each with words",
            do='`concepts={"animal": ["fox", "owl"], "colour": ["red", "blue"]}`',
        )  # fmt: skip
    return named


def _keys(
    model: Model, inputs: Inputs, spoken: list[str], sites: list[str]
) -> dict[str, list[Float[Tensor, "token head d"]]]:  # fmt: skip
    """At each site the keys of the begin, then those of each word as a prompt of its own."""
    asked = model.inputs(**alone(inputs, spoken), step=0)
    run = model.run(asked, record=[f"{site}k" for site in sites])
    tokens: TokenMap = asked.tokens["text"]
    found = {}
    for site in sites:
        keys = run[f"{site}k"][0, run.guidance[f"{site}k"].index("cond")].double()
        kinds = torch.from_numpy(tokens.kind == "bos"), torch.from_numpy(tokens.kind == "text")
        begin, *words = keys[0, kinds[0][0]], *(own[said] for own, said in zip(keys, kinds[1], strict=True))
        found[site] = [begin, *words]
    return found


@dataclass
class _Counted:
    """In how many calls of each head each concept came first."""

    keys: Mapping[str, list[Float[Tensor, "*picture token head d"]]]
    spoken: list[str]
    concepts: list[list[str]]
    seed: int
    counts: dict[str, Int[Tensor, "deal concept head"]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = np.random.default_rng(self.seed)
        places = [[self.spoken.index(word) for word in words] for words in self.concepts]
        every = self.dice.permutation([place for some in places for place in some]).tolist()
        ends = np.cumsum([0, *map(len, places)])
        dealt = [every[start:end] for start, end in pairwise(ends.tolist())]
        self.deals = [places, dealt]  # as they are, and by chance

    def add(self, name: str, queries: Float[Tensor, "picture query head d"]) -> None:
        """One call of one layer, by the name of its queries."""
        site, queries = name.removesuffix("q"), queries.double()
        won = []
        for places in self.deals:
            share = self._shares(queries, site, [int(self.dice.choice(some)) for some in places])
            first = torch.nn.functional.one_hot(share.argmax(-1), len(places))
            won.append(first.sum(0).T)
        made = torch.stack(won).cpu()
        self.counts[site] = self.counts[site] + made if site in self.counts else made
        self.calls[site] = self.calls.get(site, 0) + len(queries)

    def _shares(
        self, queries: Float[Tensor, "picture query head d"], site: str, places: list[int]
    ) -> Float[Tensor, "picture head concept"]:
        """The mean share of a token of each of some words, over patches."""
        before, *words = self.keys[site]
        keys = torch.cat([before, *(words[place] for place in places)], -3)
        scores = torch.einsum("bqhd,khd->bhqk" if keys.dim() == 3 else "bqhd,bkhd->bhqk", queries, keys)
        shares = (scores / queries.shape[-1] ** 0.5).softmax(-1).mean(2)
        sizes = [words[place].shape[-3] for place in places]
        return torch.stack([part.mean(-1) for part in shares[..., before.shape[-3] :].split(sizes, -1)], -1)

    def data(self, names: list[str]) -> xarray.Dataset:
        """Shares of calls, of all heads."""
        shares = torch.cat([made.double() / self.calls[site] for site, made in self.counts.items()], -1).numpy()
        heads = [f"{site.split('.')[1]}.{at}" for site, made in self.counts.items() for at in range(made.shape[-1])]
        return xarray.Dataset(
            {
                "relevance": (("concept", "head"), shares[0]),
                "random": (("concept", "head"), shares[1]),
                "even": 1 / len(names),
            },
            {"concept": names, "head": heads},
        )
