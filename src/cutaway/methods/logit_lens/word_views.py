"""The lens of a model that writes on a page: the answer by layer, the first words, and what picture tokens read as."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray
from numpy import ndarray

from cutaway.methods.logit_lens.laid import plain
from cutaway.methods.logit_lens.word_lens import WordLens
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import kinds
from cutaway.views.words import number, quoted, signed

ENTRY = "word_lens"
FIRST = 3  # words shown of each layer
TOKENS = 32  # shown in a grid, the last that are no picture
_BASIS = (
    "An early layer may hold a word in another basis, in which the model's own end finds nothing: late here is no late "
    "decision."
)


def show(page: Page) -> Iterator[kinds.View]:
    """The number by layer, the words by layer, and the maps where there is a picture."""
    found = page.made(ENTRY)
    yield growth(page, found)
    yield by_layer(page, found)
    yield grid(page, found)
    if page.picture is not None and bool((found["row"].values >= 0).any()):
        yield maps(page, found)


def tell(page: Page) -> Iterator[str]:
    """From which layer on the answer stays first, or where it stands if it never does."""
    found, name = page.made(ENTRY), page.names[0]
    last = _last(found)
    since = float(last["word_settles"].values[0])
    if not np.isnan(since):
        yield f"Read at the last position, {name} stays the first word {_from(since)}."
        return
    rank, chance = int(last["word_rank"].values[-1, 0]), float(found["random_rank"].values[-1, 0])
    first = quoted(plain(last["top"].values[-1, 0]))
    yield (
        f"Read at the last position, {name} does not end as the first word: it is number {rank} (a random "
        f"direction puts it at {number(chance)} on average), and {first} stays first {_from(float(last['settles']))}."
    )


def growth(page: Page, found: WordLens) -> kinds.Curve:
    """The number that is explained at each layer, beside the counterfactual, the untrained model and chance."""
    own, chance = line(found), _aimed(answers(found)[1])
    lines = [
        kinds.Line(name.replace("counterfactual", "the counterfactual"), line(side.made(ENTRY)),
                   baseline=side is page.floor)
        for name, side in page.beside.items() if side.made(ENTRY) is not None
    ]  # fmt: skip
    lines.append(kinds.Line("random directions (mean)", chance, baseline=True))
    names, step = _layers(found), int(np.abs(np.diff(own)).argmax())
    kept = np.flatnonzero(np.sign(own) != np.sign(own[-1]))
    since = float(found["layer"].values[kept[-1] + 1 if len(kept) else 0])
    return kinds.Curve(
        title="Where the answer appears",
        seen=f"For {page.names.aim}, {page.number}, read at the last position, changes most at layer "
        f"{names[step + 1]} (by {signed(own[step + 1] - own[step]):+.3f}) and ends at {signed(own[-1]):+.3f}, the "
        f"model's own number. {_from(since).capitalize()} it has the sign that it ends with. Random directions of the "
        f"same length give {signed(chance[-1]):+.3f} on average at the last layer.",
        limits="The curve is read through the model's last norm and unembedding at every layer. A step says that the "
        f"answer turned into the output's words there, not that it was worked out there. {_BASIS}",
        x=kinds.Axis("layer", names), lines=tuple(lines), unit="logits", provenance=origin(found), folded=True,
        code=page.applied[ENTRY].look(answers).code,
    )  # fmt: skip


def by_layer(page: Page, found: WordLens) -> kinds.Table:
    """The first words of each layer at the last position, with probability and rank of the words asked about."""
    look, last, asked = page.applied[ENTRY].look(firsts), _last(found), range(len(found.words))
    top, weight, rank, chance, likely = (part.values for part in look.value)
    columns = ["layer", "first words, with probability"]
    for at in asked:
        columns += [f"rank of {page.names[at]}", "by chance", f"probability of {page.names[at]}"]
    cells = []
    for at, name in enumerate(_layers(found)):
        cell: list[kinds.Cell] = [name, _words(top[at], weight[at])]
        for word in asked:
            cell += [int(rank[at, word]), float(chance[at, word]), float(likely[at, word])]
        cells.append(tuple(cell))
    end = last.isel(layer=-1)
    first = number(float(end["top_probability"].values[0]))
    told = ", ".join(
        f"{page.names[at]} number {int(end['word_rank'].values[at])} with a probability of "
        f"{number(float(end['word_probability'].values[at]))}" for at in asked
    )  # fmt: skip
    return kinds.Table(
        title="The words of each layer",
        seen=f"What each layer says at the last position, read as if it were the last one. At the end the first word "
        f"is {quoted(plain(end['top'].values[0]))} with a probability of {first}"
        f"; {told}. “By chance” is the mean rank of the word for random directions as long as the state.",
        limits=f"It does not say that the model uses what is read. {_BASIS}",
        columns=tuple(columns), cells=tuple(cells), folded=True, provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def grid(page: Page, found: WordLens) -> kinds.WordGrid:
    """The first words of every token by layer: picture tokens on the picture, the last of the others as a grid."""
    here, whole = found.data.isel(prompt=0), found.lengths[0]
    on = found.places() if page.picture is not None else np.zeros((0, 0), int)
    pictured = on.size > 0
    others = np.setdiff1d(np.flatnonzero(here["token_kind"].values[:whole] != "image"), on.ravel())[-TOKENS:]
    chosen = np.concatenate([np.sort(on[on >= 0]), others]).astype(int)
    look = page.applied[ENTRY].look(ranks)
    top, likely = (part.isel(token=chosen).transpose("token", "layer", "rank").values for part in look.value)
    words, ranked = np.unique(top, return_inverse=True)
    patches = np.where(on >= 0, np.searchsorted(np.sort(on[on >= 0]), on), np.nan) if pictured else None
    early = int((here["settles"].values[others] <= found["layer"].values[-1] / 2).sum())
    more = f" The {int((on >= 0).sum())} picture tokens are on the picture, with a slider for the layer."
    return kinds.WordGrid(
        title="Every token, layer by layer",
        seen=f"The first word of each layer at the last {len(others)} positions that are no picture, read as if the "
        f"layer were the last one; the deeper the colour, the likelier. A cell that is chosen shows its first "
        f"{top.shape[2]} words. At {early} of these positions the word that ends as the first is so from the "
        f"first half of the layers on.{more if pictured else ''}",
        limits="It does not say that the model uses what is read. At a position inside a prompt the end says what "
        f"would come next there, which nobody asks. {_BASIS}",
        tokens=tuple(_token(here, at) for at in chosen.tolist()), layers=_layers(found), words=tuple(map(plain, words)),
        ranked=ranked.reshape(top.shape), values=likely, unit="probability",
        picture=page.seen if pictured else None, patches=patches, folded=True, provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def _token(here: xarray.Dataset, at: int) -> str:
    """A position as the grid calls it: its text and number, or its place on the picture."""
    if int(here["row"].values[at]) >= 0:
        return f"row {int(here['row'].values[at])}, column {int(here['col'].values[at])}"
    return f"{plain(here['token_text'].values[at])} ({at})"


def maps(page: Page, found: WordLens) -> kinds.Lens:
    """How likely each word asked about is at every picture token, by layer, against chance."""
    values, names = log_maps(found), _layers(found)
    layer, row, col = np.unravel_index(np.nanargmax(values[0]), values[0].shape)
    above, count = int((values[0, layer] > 0).sum()), int(np.isfinite(values[0, layer]).sum())
    most, chance = float(values[0, layer, row, col]), float(found["random_probability"].values[layer, 0])
    return kinds.Lens(
        title="What each picture token reads as",
        seen="Every picture token is read after every layer as if it were the last position. The map is the "
        "log-probability of the word there, less the log of its mean probability for random directions as long as the "
        f"states: above zero the word is likelier than by chance. {page.names[0]} is likeliest so at row {row}, column "
        f"{col} {_at(names[layer])}: {signed(most):+.3f} nats, a probability of {number(chance * np.exp(most))} for "
        f"{number(chance)} by chance. There, {above} of {count} tokens are above zero.",
        limits="It is correlational: that a token reads as a word does not mean that the model uses it (patch the "
        "state to see). It may have been taught so by the text around pictures in training, or hold what attention "
        f"brought from other places, which is not what lies there. {_BASIS}",
        picture=page.seen, texts=page.names.labels[: len(values)], layers=names, values=values, signed=True,
        unit="log-probability above chance (nats)", pooled=_above(found, _last(found)["word_probability"]),
        reader="last position", folded=True, provenance=origin(found),
        code=page.applied[ENTRY].look(likelier).code,
    )  # fmt: skip


def answers(found: WordLens) -> tuple[xarray.DataArray, xarray.DataArray]:
    """The logits of the words asked about at the last position, by layer, and those for random directions."""
    return found["word_logit"].isel(prompt=0, token=-1), found["random_logit"]


def firsts(found: WordLens) -> tuple[xarray.DataArray, ...]:
    """The first words of each layer at the last position; of those asked about the rank, by chance, the probability."""
    last = found.data.isel(prompt=0, token=-1)
    return last["top"], last["top_probability"], last["word_rank"], found["random_rank"], last["word_probability"]


def ranks(found: WordLens) -> tuple[xarray.DataArray, xarray.DataArray]:
    """The first words of every token and layer, and their probabilities."""
    return found["top"].isel(prompt=0), found["top_probability"].isel(prompt=0)


def likelier(found: WordLens) -> xarray.DataArray:
    """The log of what the words have at each picture token, less that of chance; no less than single precision has."""
    least = np.finfo(np.float32).tiny
    own = np.maximum(found.on_grid("word_probability").astype(float), least)
    return np.log(own) - np.log(np.maximum(found["random_probability"], least))


def line(found: WordLens) -> ndarray:
    """The number by layer at the last position, as the lens reads it: a logit, or a difference of two."""
    return _aimed(answers(found)[0])


def log_maps(found: WordLens) -> ndarray:
    """How likely each word is at the tokens of the first picture, against chance, (word, layer, row, column)."""
    return np.asarray(likelier(found).transpose("word", "layer", ...).values)


def _above(found: WordLens, probability: xarray.DataArray) -> ndarray:
    """The log of a probability less that of chance, (word, layer, …); one below single precision as its smallest."""
    least = np.finfo(np.float32).tiny
    values = probability.transpose("word", "layer", ...).values.astype(float)
    chance = found["random_probability"].transpose("word", "layer").values
    chance = chance.reshape(*chance.shape, *[1] * (values.ndim - 2))
    return np.asarray(np.log(np.maximum(values, least)) - np.log(np.maximum(chance, least)))


def _aimed(logits: xarray.DataArray) -> ndarray:
    values = logits.transpose("layer", "word").values
    return np.asarray(values[:, 0] if values.shape[1] < 2 else values[:, 0] - values[:, 1])


def _last(found: WordLens) -> xarray.Dataset:
    """What is read at the last position of the one prompt."""
    return found.data.isel(prompt=0, token=-1)


def _words(words: ndarray, chances: ndarray) -> str:
    """The first words of a layer, each with its probability."""
    pairs = zip(words[:FIRST], chances[:FIRST], strict=True)
    return ", ".join(f"{quoted(plain(word))} {number(float(chance))}" for word, chance in pairs)


def _layers(found: WordLens) -> tuple[str, ...]:
    return tuple("input" if layer < 0 else str(layer) for layer in found["layer"].values)


def _at(layer: str) -> str:
    return "at the input" if layer == "input" else f"after layer {layer}"


def _from(layer: float) -> str:
    return "from the input on" if layer < 0 else f"from layer {int(layer)} on"
