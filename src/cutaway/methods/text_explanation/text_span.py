"""Heads named by the texts that they vary with: TextSpan."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.representation_decomposition import Decomposition, decompositions
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.model import Model
from cutaway.questions.bank import TextBank, same_space
from cutaway.questions.rows import Rows, tracked, unit
from cutaway.store.reducers import Gram, Moments

SPAN_SOURCE = "Gandelsman, Efros, Steinhardt 2023, arXiv 2310.05916, algorithm 1 (TextSpan)"


@dataclass(frozen=True, eq=False, repr=False)
class Spans(Result):
    """The texts that span what each head adds, best first.

    `text`, `topic` (layer, head, pick); `fit`: the cosine of the text with the direction it stands for, which lies in
    the space the head writes to: near 1 the text says what the head does, near `random_fit` the head only borrows it.
    `explained`: the cumulative share of the variance of the head's contributions along the picks so far. `random_fit`
    and `random`: the same two for a bank of as many random directions. `variance` (layer, head): the head's own, in
    squared units of the embedding.
    """

    main: ClassVar[str] = "fit"

    def named(self) -> Any:
        """One row a head: its texts, how well the first fits, the share all explain, and the same at random."""
        last = self.data.isel(pick=-1).drop_vars(["fit", "random_fit"])
        last = last.assign({name: self[name].isel(pick=0) for name in ("fit", "random_fit")})
        texts = [", ".join(map(str, row)) for row in self["text"].values.reshape(-1, self.data.sizes["pick"])]
        names = ["variance", "fit", "random_fit", "explained", "random"]
        shown = last[names].assign(texts=(("layer", "head"), _square(texts, last)))
        return shown.to_dataframe().reset_index()[["layer", "head", *names, "texts"]]

    def summary(self) -> Any:
        """The twelve heads that vary most."""
        return self.named().sort_values("variance", ascending=False).head(12)

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["fit"].isel(pick=0), "fit of the first text (cosine)")


def text_span(
    parts: Decomposition | Iterable[Decomposition], bank: TextBank, *, picks: int = 5,
    layers: Sequence[int] | None = None, centre: bool = True, rank: int | None = None, seed: int = 0,
    progress: bool = True,
) -> Spans:  # fmt: skip
    """Name every head by the texts whose directions explain most of what it adds to the embeddings.

    C (items x joint): the head's contributions less their mean over the items; R: the bank's texts t / |t| less their
    mean, projected onto the row space of C. Repeat: pick j = argmax_j |C R_j|^2, then take the direction R_j out of C
    and of all R. Explained after k picks: 1 - |C_k|^2 / |C_0|^2. Fit of a pick: |R_j| when picked over |R_j| at first.

    Of C only C'C (joint x joint) is ever used: |C R_j|^2 = R_j' C'C R_j, and taking a direction out of C takes it out
    of C'C on both sides. So `parts` may be a stream of any length (`decompositions(model, rows)`): what is held is one
    such matrix a head, of the `layers` named (5 MB a head of CLIP ViT-L/14, as 1,500 pictures would be).

    Units: shares of variance. Source: Gandelsman et al. 2023, arXiv 2310.05916, algorithm 1. We remove the mean of the
    bank as well as that of the contributions, as the modality mean is no property of a head. `centre=False` is the
    published rule, pick for pick: R keeps its mean and is projected onto the row space of the contributions with
    theirs, of which `rank` keeps the first so many singular directions (the authors' program: 80; here all unless
    given). Their program is fed contributions that hold shares of the biases and are divided by |y| of their item:
    see `representation_decomposition`. The fit is ours: projected, any texts span a head of low rank, so a high share
    alone proves nothing. Baseline: the same picks from as many random directions.

    What it can NOT tell: that a head does what its texts say. The texts span the variance on these data only; a bank
    without the right word names the nearest one; near-synonyms share a direction and only one is picked.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.methods.representation_decomposition import decompositions
    >>> from cutaway.questions.bank import text_bank
    >>> model = cutaway.load("tiny:clip")
    >>> made = decompositions(model, (scene_at("test", i) for i in range(8)), batch=4, progress=False)
    >>> spans = text_span(made, text_bank(model, ["a dog", "a cat", "a red car"]), picks=2, progress=False)
    >>> spans["text"].dims, spans["text"].shape
    (('layer', 'head', 'pick'), (3, 4, 2))
    """
    started = time.perf_counter()
    first, parts = _begun(parts)
    sizes = first.data.sizes
    texts = same_space(bank, sizes["joint"], first.provenance.model)
    chosen = list(range(sizes["layer"])) if layers is None else [range(sizes["layer"])[layer] for layer in layers]
    _check_picks(picks, rank, min(len(bank), sizes["joint"]))
    heads = tracked(_moments(parts, chosen), "naming heads", len(chosen) * sizes["head"], show=progress)
    items, *columns = _spans(heads, unit(texts).double(), picks, centre, rank, seed)
    told = Provenance.of(
        "text_span", SPAN_SOURCE, started=started, model=first.provenance, seed=seed, picks=picks, texts=len(bank),
        items=int(items.max()), centred="contributions and bank" if centre else "contributions", rank=rank,
    )  # fmt: skip
    return Spans(_table(columns, bank, chosen, picks), told)


def head_texts(
    model: Model, pictures: Rows, bank: TextBank, *, picks: int = 5, centre: bool = True, seed: int = 0,
    batch: int = 32, progress: bool = True,
) -> Spans:  # fmt: skip
    """Name every head of a picture tower by the texts it varies with over many pictures: `text_span` of a stream.

    Units, source and limits are those of `text_span`; `picks` are at most as many as texts and directions.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.bank import text_bank
    >>> model = cutaway.load("tiny:clip")
    >>> scenes = [scene_at("test", i) for i in range(6)]
    >>> head_texts(model, scenes, text_bank(model, ["a dog", "a cat"]), progress=False)["text"].shape
    (3, 4, 2)
    """
    stream = decompositions(model, pictures, batch=batch, progress=progress)
    most = min(picks, len(bank), bank.embeddings.shape[1])
    return text_span(stream, bank, picks=most, centre=centre, seed=seed, progress=False)


def _begun(
    parts: Decomposition | Iterable[Decomposition],
) -> tuple[Decomposition, Decomposition | Iterable[Decomposition]]:
    """The first of a stream, and the stream with it."""
    if isinstance(parts, Decomposition):
        return parts, parts
    stream = iter(parts)
    first: object = next(stream, None)
    if not isinstance(first, Decomposition):
        raise MethodError(
            "no decomposition to name heads of", expected="a Decomposition, or a stream of them",
            exists="an empty stream" if first is None else f"a stream of {type(first).__name__}",
            do="`representation_decomposition(model, rows)`, or `decompositions(model, rows)` for many rows",
        )  # fmt: skip
    return first, chain([first], stream)


def _check_picks(picks: int, rank: int | None, most: int) -> None:
    if not 1 <= picks <= most:
        raise MethodError(
            f"{picks} picks",
            expected=f"1 to {most} picks, as many as texts and directions",
            do="give `picks` in between",
        )
    if rank is not None and rank < picks:
        raise MethodError(f"{picks} picks from {rank} directions", expected="a `rank` of as many as `picks` at least")


def _moments(parts: Decomposition | Iterable[Decomposition], layers: list[int]) -> Iterator[Moments]:
    """Mean and scatter of what each head adds: of one head at a time, or of all while a stream passes, once."""
    if isinstance(parts, Decomposition):
        heads = torch.from_numpy(parts.vectors("heads").values[:, layers])
        return (Gram().add(heads[:, layer, head]).value for layer, head in np.ndindex(*heads.shape[1:3]))
    grams, kinds = Gram(), set()
    for part in parts:
        made = part.provenance
        kinds.add(f"{made.model} {made.revision} {made.options.get('tower', '')}")
        if len(kinds) > 1:
            raise MethodError(
                "these decompositions are of several models or towers", expected="one model and one tower",
                exists="; ".join(sorted(kinds)), do="name the heads of each by themselves",
            )  # fmt: skip
        grams.add(torch.from_numpy(part.vectors("heads").values[:, layers]))
    whole = grams.value
    return (Moments(whole.count, whole.mean[at], whole.scatter[at]) for at in np.ndindex(*whole.mean.shape[:2]))


def _spans(
    heads: Iterable[Moments], words: Float[Tensor, "text joint"], picks: int, centre: bool, rank: int | None, seed: int
) -> list[ndarray]:
    """Of every head: items, picks, their fit and the variance they explain, both at random too, the variance itself."""
    words = words - words.mean(0) if centre else words
    drawn = torch.randn(words.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    random = unit(drawn) * words.norm(dim=1, keepdim=True)
    found = []
    for head in heads:
        if head.count < 3:
            raise MethodError(
                f"{head.count} items", expected="3 at least, better some hundreds", do="decompose more rows"
            )
        basis = row_space(head.scatter if centre else head.gram, rank)
        _, *baseline = picked(head.scatter, random, picks, basis)
        variance = float(head.scatter.trace() / head.count)
        found.append((head.count, *picked(head.scatter, words, picks, basis), *baseline, variance))
    return [np.stack(column) for column in zip(*found, strict=True)]


def _table(columns: list[ndarray], bank: TextBank, layers: list[int], picks: int) -> xarray.Dataset:
    order, *numbers = (column.reshape(len(layers), -1, *column.shape[1:]) for column in columns)
    axes, names = ("layer", "head", "pick"), ("fit", "explained", "random_fit", "random", "variance")
    return xarray.Dataset(
        {
            "text": (axes, np.array(bank.texts)[order]),
            "topic": (axes, np.array(bank.topics)[order]),
            **{name: (axes[: values.ndim], values) for name, values in zip(names, numbers, strict=True)},
        },
        coords={"layer": layers, "head": range(order.shape[1]), "pick": range(1, picks + 1)},
    )


def row_space(gram: Float[Tensor, "joint joint"], rank: int | None = None) -> Float[Tensor, "joint k"]:
    """The first directions of the row space of C, orthonormal, from C'C."""
    values, vectors = torch.linalg.eigh(gram)  # rising
    return vectors[:, values > values.max().clamp_min(0) * 1e-10].flip(1)[:, :rank]


def picked(
    scatter: Float[Tensor, "joint joint"], words: Float[Tensor, "text joint"], picks: int,
    basis: Float[Tensor, "joint k"],
) -> tuple[Int[ndarray, "pick"], Float[ndarray, "pick"], Float[ndarray, "pick"]]:  # fmt: skip
    """The picks, their fit, the cumulative share of variance, from C'C of the contributions less their mean."""
    total, lengths = scatter.trace(), words.norm(dim=1)
    words, spread = words @ basis, basis.T @ scatter @ basis  # coordinates in the row space
    start = spread.trace()
    order, fit, explained = [], [], []
    for _ in range(picks):
        score = ((words @ spread) * words).sum(1)
        best = int(score.argmax())
        fit.append(float(words[best].norm() / lengths[best]))
        direction = unit(words[best])
        remove = torch.eye(len(direction), dtype=words.dtype) - torch.outer(direction, direction)
        spread, words = remove @ spread @ remove, words @ remove
        order.append(best)
        explained.append(float((start - spread.trace()) / total) if total > 0 else 0.0)
    return np.array(order), np.array(fit), np.array(explained)


def _square(texts: list[str], like: xarray.Dataset) -> Any:
    return np.array(texts, dtype=object).reshape(like.sizes["layer"], like.sizes["head"])
