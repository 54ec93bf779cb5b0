"""The decomposition on a page: what patches and words add, the sums, and the texts that are nearest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray

from cutaway.methods.look import Look
from cutaway.methods.representation_decomposition.chance import beside_chance
from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.feeds import feeds
from cutaway.methods.representation_decomposition.heads import heads
from cutaway.methods.representation_decomposition.representation_decomposition import Decomposition
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.questions.bank import TextBank
from cutaway.questions.given import with_asked
from cutaway.questions.question import Question
from cutaway.views.kinds import Bar, Bars, Overlay, Table, View
from cutaway.views.words import adding_up, balance, mostly, quoted, signed

ENTRY = "decomposition"
PATCHES = "What each patch adds"
SHOWN = 3  # texts that get bars of their own
NEAREST = 12


def direct(page: Page | None) -> Direct | None:
    """What the decomposition on a page says of its question; None where there is none."""
    parts = None if page is None else page.made(ENTRY)
    return None if page is None or parts is None else Direct(page.question, parts)


def show(page: Page) -> Iterator[View]:
    """All views of it, in the order in which they are best read; after the first two they are folded."""
    own = Direct(page.question, page.made(ENTRY))
    yield patches(page, own)
    yield heads(page, own)
    yield beside_chance(page, {name: Direct(side.question, side.made(ENTRY)) for name, side in page.beside.items()})
    for text in own.taken_apart:
        yield by_word(page, own, text)
    fed = feeds(page, own)
    yield from [] if fed is None else [fed]
    yield from bars(page, own)
    if page.question.bank is not None:
        yield nearest(page, own, page.question.bank)


def patches(page: Page, own: Direct) -> Overlay:
    """What each patch adds to the similarity with each text, through attention."""
    values, names, aim = own.patches.values, page.names.labels, page.names.aim
    if len(page.names) > 1:
        values, names = np.concatenate([own.added.values[None], values]), (aim, *names)
    total = values[0].sum()
    at = values[0].argmin() if total < 0 else values[0].argmax()
    row, col = np.unravel_index(at, values[0].shape)
    whole = f"{_reads(own)} {signed(total):+.3f} of the {signed(page.question.value):+.3f} for {aim}"
    return Overlay(
        title=PATCHES,
        seen=f"{whole}: {balance(values[0])}. {mostly(values[0])}. The strongest such patch, row {row}, column {col}, "
        f"adds {signed(values[0].flat[at]):+.3f}. These numbers are parts of an exact sum.",
        limits=f"It counts what a patch hands on to the {own.reader} directly. By the later layers a patch may hold "
        "what it has gathered from its neighbours, so a bright patch is where something was read, not always where the "
        f"thing stands. What {'the embeddings of the patches' if own.all_read else f'the {own.reader}'}, MLPs and "
        "biases add is not on this map.",
        picture=page.seen, texts=names, values=values, unit="cosine", signed=True, provenance=origin(own.parts),
        code=page.applied[ENTRY].look(by_patch).code,
    )  # fmt: skip


def by_patch(found: Decomposition, question: Question) -> xarray.DataArray:
    """What each patch adds to the number."""
    return Direct(question, found).added


def without(found: Decomposition, question: Question, text: int) -> xarray.DataArray:
    """What the patches add for each word of a text: with it, less without it."""
    return Direct(question, found).by_word(text)


def by_word_title(page: Page, text: int) -> str:
    """The title of the view of the words of a text."""
    return f"{page.names[text]} word by word"


def by_word(page: Page, own: Direct, at: int) -> Overlay:
    """What the patches add for a text by each of its words."""
    look, text = page.applied[ENTRY].look(without, text=at), page.names[at]
    values, words = look.value.values, [str(word) for word in look.value["word"].values]
    most = int(np.abs(values.sum((1, 2))).argmax())
    return Overlay(
        title=by_word_title(page, at),
        seen=f"One word of {text} is left out at a time; each map shows what the patches add for {text}, less what "
        f"they add without the word. {quoted(words[most])} matters most: the patches give "
        f"{signed(values[most].sum()):+.3f} for it, {balance(values[most])}. Choose a word to see its map.",
        limits="A text without a word may be read differently in other ways than by this word, most of all where it is "
        "no longer a sentence. The maps of the words do not add up to the map of the text.",
        picture=page.seen, texts=tuple(words), values=values, unit="cosine", signed=True, caption=True, folded=True,
        provenance=origin(own.parts),
        code=look.code,
    )  # fmt: skip


def bars(page: Page, own: Direct) -> Iterator[Bars]:
    """The number that is explained, then the similarity with each text, as sums."""
    made = page.applied[ENTRY]
    if len(page.names) > 1:
        yield _sum(own, made.look(summed), page.names.aim, page.question.value)
    for at in range(len(page.names))[:SHOWN]:
        yield _sum(own, made.look(summed_for, text=at), page.names[at], float(own.cosines[at]))


def summed(found: Decomposition, question: Question) -> tuple[xarray.DataArray, float]:
    """What each term adds to the number, and the sum, which is the model's own number."""
    added = question.aimed(found.effect(question.texts).isel(item=0))
    return added, float(added.sum())


def summed_for(found: Decomposition, question: Question, text: int) -> tuple[xarray.DataArray, float]:
    """The same for one of the texts."""
    added = found.effect(question.texts).isel(item=0, text=text)
    return added, float(added.sum())


def _sum(own: Direct, look: Look, what: str, total: float) -> Bars:
    """One sum: the embedding, the heads of each layer together, the MLPs, and all that is constant."""
    effect, _ = look.value
    terms = {str(name): float(value) for name, value in zip(effect["term"].values, effect.values, strict=True)}
    layers = range(own.parts.data.sizes["layer"])
    heads = [sum(v for name, v in terms.items() if name.startswith(f"{layer}.head.")) for layer in layers]
    mlps = {f"MLP of layer {layer}": terms[f"{layer}.mlp"] for layer in layers}
    mlps |= {"MLP of the pooling head": terms["pool_mlp"]} if "pool_mlp" in terms else {}
    biases = sum(terms[f"{layer}.attn_bias"] for layer in layers)
    first = "patches and positions" if own.all_read else f"{own.reader} and position"
    made = [Bar(first, "embedding", terms["embed"])]
    made += [Bar(f"heads of layer {layer}", "heads", value) for layer, value in enumerate(heads)]
    made += [Bar(title, "MLPs", value) for title, value in mlps.items()]
    made += [Bar("attention biases", "constants", biases), Bar("norm and projection bias", "constants",
             terms["norm_bias"] + terms["offset"])]  # fmt: skip
    return Bars(
        title=f"What adds up to {what}",
        seen=adding_up(made, total),
        limits="These are direct effects: what a layer writes that reaches the output unchanged. An early layer that "
        "only prepares the ground for a later one shows up as nothing. The final norm is held at its scale for this "
        "picture.",
        folded=True, bars=tuple(made), unit="cosine", total=total, code=look.code, provenance=origin(own.parts),
    )  # fmt: skip


def near(found: Decomposition, question: Any) -> xarray.DataArray:
    """The cosine of the picture with each text of the question, then of the bank."""
    return found.cosines(with_asked(question.texts, question.bank)).isel(item=0)


def nearest(page: Page, own: Direct, bank: TextBank) -> Table:
    """The texts of the bank that fit the picture best, and where the question's own stand among them."""
    look = page.applied[ENTRY].look(near)
    found = look.value
    values, texts, topics = found.values, found["text"].values, found["topic"].values
    order, asked = np.argsort(-values), len(page.names)
    rank = {int(index): place for place, index in enumerate(order, 1)}
    shown = sorted({*order[:NEAREST].tolist(), *range(asked)}, key=rank.__getitem__)
    mean, spread = values.mean(), values.std() or 1.0
    cells = tuple(
        (rank[i], str(texts[i]), str(topics[i]), float(values[i]), float((values[i] - mean) / spread)) for i in shown
    )
    best = next(int(index) for index in order if index >= asked or len(values) == asked)
    return Table(
        title="Nearest texts",
        seen=f"Of {len(values)} texts, the {asked} asked and the rest of the bank, {page.names[0]} is number "
        f"{rank[0]} ({signed(values[0]):+.3f}); the best of the bank is {quoted(str(texts[best]))} "
        f"({signed(values[best]):+.3f}). The last column counts standard deviations above the mean of all texts.",
        limits="Longer texts and common phrases sit nearer to every picture, so ranks of unlike texts say little. A "
        "text that is near is not thereby true.",
        columns=("rank", "text", "topic", "cosine", "above the mean (sd)"), cells=cells, folded=True,
        provenance=origin(own.parts) | {"texts": len(values)},
        code=look.code,
    )  # fmt: skip


def _reads(own: Direct) -> str:
    """How the reader comes to what the patches add, as the start of a sentence."""
    if own.all_read:
        return "The pooling head gets from the patches, through the attention of all layers,"
    return f"The {own.reader} gathers from the patches, through its attention,"
