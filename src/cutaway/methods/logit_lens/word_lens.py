"""Every layer and position of a model that writes, read in words through its own end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor
from torch.linalg import vecdot

from cutaway.methods.logit_lens.heard import Heard, as_long, check_counts, hear, log_probs
from cutaway.methods.logit_lens.laid import AXES, Positions, Spelling, known, laid, plain
from cutaway.methods.logit_lens.tuned_lens import TunedLens
from cutaway.methods.result import Provenance
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.words import token_id
from cutaway.questions.rows import tracked

METHOD = "word_lens"
SOURCE = "nostalgebraist 2020 (logit lens); at pictures: Neo et al. 2024, arXiv 2410.07149; tuned: arXiv 2303.08112"
CHUNK = 2**22  # logits at a time
COLUMNS, LINES, LETTERS = 12, 24, 9  # what a drawing shows at most


@dataclass(frozen=True, eq=False, repr=False)
class WordLens(Positions):
    """What each state would say if it were the last one; layer -1 is what enters the first block.

    `top`, `top_id`, `top_probability` (prompt, layer, token, rank): the first words. `entropy` and `kl` (prompt, layer,
    token), in nats: of the words, and KL(what the model says there || what the layer says). `settles` (prompt, token):
    the layer from which on the model's first word there is the first, to the end. Of the words asked for, `word_logit`,
    `word_probability`, `word_rank` (1: the first) over (prompt, layer, token, word), and `word_settles` (prompt, token,
    word), NaN for a word that is not the first at the end. `random_…`: the mean of the same over random directions of
    the same length, by layer: the size of chance. Positions are those of each row, padding left out; a shorter row has
    nothing behind its end: "", NaN, and -1 for whole numbers.
    """

    main: ClassVar[str] = "kl"

    def by_layer(self, token: int = -1, prompt: int = 0) -> Any:
        """What each layer says at one position (-1: the row's last), as a table; of each asked word, its rank."""
        at = range(self.lengths[prompt])[token]
        here = self.data.isel(prompt=prompt, token=at)
        table = {"layer": here["layer"].values, "word": [plain(word) for word in here["top"].values[:, 0]]}
        table |= {"probability": here["top_probability"].values[:, 0]}
        table |= {name: here[name].values for name in ("entropy", "kl")}
        for i, word in enumerate(self.words):
            table[f"rank of {plain(word)}"] = here["word_rank"].values[:, i].astype(int)
        columns = {name: ("line", values) for name, values in table.items()}
        return xarray.Dataset(columns).to_dataframe().reset_index(drop=True)

    def summary(self) -> Any:
        """What each layer says at the last position of the first prompt."""
        return self.by_layer()

    def note(self) -> str:
        """How much of it chance would do."""
        spread = self["random_entropy"].values
        return f"A random direction reads with an entropy of {spread.min():.2f} to {spread.max():.2f} nats."

    @property
    def words(self) -> list[str]:
        """The words that were asked for."""
        return [str(word) for word in self["word"].values] if "word" in self.data.coords else []

    def _draw(self, ax: Axes) -> None:
        """The first word of each layer at the last positions of the first prompt that are no picture."""
        kinds = self["token_kind"].isel(prompt=0).values
        shown = np.flatnonzero((kinds != "") & (kinds != "image"))[-COLUMNS:]
        every = -(-self.data.sizes["layer"] // LINES)
        layers = np.arange(self.data.sizes["layer"])[::-1][::every][::-1]
        here = self.data.isel(prompt=0, token=shown, layer=layers, rank=0)
        size = here["top_probability"].values
        image = ax.imshow(size, aspect="auto", origin="lower", cmap="viridis", vmin=0, vmax=1)
        for (i, j), word in np.ndenumerate(here["top"].values):
            dark = size[i, j] < 0.6
            ax.text(j, i, plain(word)[:LETTERS], ha="center", va="center", fontsize=6, color="w" if dark else "k",
                    parse_math=False)  # fmt: skip
        words = [plain(word)[:LETTERS] for word in here["token_text"].values]
        names = [f"{word}\n{at}" for word, at in zip(words, shown, strict=True)]
        ax.set_xticks(range(len(shown)), names, fontsize=6, parse_math=False)
        ax.set_yticks(range(len(layers)), [str(one) for one in here["layer"].values], fontsize=6)
        ax.set(xlabel="position", ylabel="layer", title="the first word of each layer")
        ax.figure.colorbar(image, ax=ax, label="probability")


@torch.no_grad()
def word_lens(
    model: Model, inputs: Inputs, words: Sequence[str | int] = (), *, tower: str = "text", top: int = 5,
    tuned: TunedLens | None = None, draws: int = 32, seed: int = 0, progress: bool = True,
) -> WordLens:  # fmt: skip
    """Read the residual stream after every layer, at every position, in words, through the model's own end.

    p_l = softmax(U N(x_l) + b), with the model's own last norm N and unembedding U, called as modules, and all that its
    class does behind (a bound on the logits, a bias); with `tuned`, x_l goes through its translator first. The last
    layer is the model's own answer: a model for which it is not, is refused. `words` are single tokens, as words or as
    numbers. Beside them stands the mean over `draws` random directions, each as long as the state at some position.

    Units: probabilities, nats, logits, ranks from 1. Source: nostalgebraist 2020 (logit lens); Neo et al. 2024, arXiv
    2410.07149, at the positions of pictures; Belrose et al. 2023, arXiv 2303.08112 (tuned). The baseline is ours.

    What it can NOT tell: that the model uses what is read: it is correlational (patch the state to see). An early layer
    may hold the word in another basis, in which the last layer's end finds nothing: a late `settles` is no late
    decision (fit a `tuned_lens`). A patch that reads as a word may have been taught so by the text around its picture
    in training, or hold what attention brought from other patches, which is not what lies there.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:llava")
    >>> inputs = model.inputs(image=tiny.picture(), text="what is this")
    >>> found = word_lens(model, inputs, ["dog", "cat"], progress=False)
    >>> found["word_rank"].dims, found.on_grid("word_probability").dims
    (('prompt', 'layer', 'token', 'word'), ('layer', 'word', 'row', 'col'))
    """
    started = time.perf_counter()
    if tuned is not None:
        tuned.fits(model, tower)
        tuned = tuned.to(model.device)
    heard = hear(model, inputs, tower)
    ids = [token_id(heard.run, word) for word in words]
    check_counts(top, draws, heard.run.logits.shape[-1], ids)
    reader = _Reader(heard, tuned, ids, top)
    count, vocabulary = int(heard.own.sum()), heard.run.logits.shape[-1]
    parts = torch.arange(count).split(max(1, CHUNK // vocabulary))
    read = [reader(at) for at in tracked(parts, "reading layers", len(parts), show=progress)]
    found = {name: torch.cat([part[name] for part in read], 1).numpy() for name in read[0]}
    chance = reader.chance(draws, seed)
    spelled = Spelling(model.tokenizer)
    asked = [word if isinstance(word, str) else spelled(word) for word in words]
    data = _table(heard, found, chance, asked, spelled).assign_coords(known(heard, inputs, tower))
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=heard.sites, seed=seed, tower=tower, top=top, draws=draws,
        words=asked, tuned="" if tuned is None else repr(tuned),
    )  # fmt: skip
    return WordLens(data, told)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _End:
    """What the model itself says at some positions: probabilities p, sum p log p, the last layer's logits as read."""

    sure: Float[Tensor, "m vocab"]
    own: Float[Tensor, "m"]
    read: Float[Tensor, "m vocab"]

    @classmethod
    def of(cls, heard: Heard, at: Int[Tensor, "m"]) -> _End:
        final, read = heard.final(at)
        said = log_probs(final)
        sure = said.exp()
        return cls(sure, vecdot(sure, said), read)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Logits of some positions at one layer, boiled down at once: none are kept."""

    heard: Heard
    tuned: TunedLens | None
    ids: list[int]
    top: int

    def __call__(self, at: Int[Tensor, "m"]) -> dict[str, Tensor]:
        """Every number of every layer at some positions, (layer, position, …)."""
        end, heard = _End.of(self.heard, at), self.heard
        before = zip(heard.layers[:-1], heard.sites[:-1], strict=True)
        read = (self._logits(heard.states(site, at), layer) for layer, site in before)
        return _stacked([*(self._kept(logits, end) for logits in read), self._kept(end.read, end)])

    def chance(self, draws: int, seed: int) -> dict[str, ndarray]:
        """The mean numbers of random directions, as long as the states at positions chosen by chance, by layer."""
        dice = torch.Generator().manual_seed(seed)
        at = torch.randint(int(self.heard.own.sum()), (draws,), generator=dice)
        end, read = _End.of(self.heard, at), []
        for layer, site in zip(self.heard.layers, self.heard.sites, strict=True):
            state = self.heard.states(site, at)
            noise = torch.randn(state.shape, generator=dice, dtype=torch.float64)
            read.append(self._kept(self._logits(as_long(noise, state), layer), end))
        means = {name: value.double().mean(1).numpy() for name, value in _stacked(read).items()}
        return {f"random_{name.removeprefix('word_')}": x for name, x in means.items() if not name.startswith("top")}

    def _logits(self, state: Float[Tensor, "m d"], layer: int) -> Float[Tensor, "m vocab"]:
        return self.heard.read(state if self.tuned is None else self.tuned.translated(state, layer))

    def _kept(self, logits: Float[Tensor, "m vocab"], end: _End) -> dict[str, Tensor]:
        """What is kept of the logits of one layer."""
        said = log_probs(logits)
        best = said.topk(self.top)
        kept = {
            "top_id": best.indices, "top_probability": best.values.exp(), "entropy": -vecdot(said.exp(), said),
            "kl": (end.own - vecdot(end.sure, said)).clamp(min=0),  # below 0 is rounding
        }  # fmt: skip
        if self.ids:
            asked = logits[:, self.ids]
            ranks = [(logits > one[:, None]).sum(-1, dtype=torch.int32) + 1 for one in asked.unbind(-1)]
            kept |= {
                "word_logit": asked,
                "word_probability": said[:, self.ids].exp(),
                "word_rank": torch.stack(ranks, -1),
            }
        return {name: value.cpu() for name, value in kept.items()}


def _stacked(read: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One tensor a name, layers in front; half precision, which numpy lacks, as single."""
    made = {name: torch.stack([one[name] for one in read]) for name in read[0]}
    return {name: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for name, x in made.items()}


# --- the table --------------------------------------------------------------------------------------------------------


def _table(
    heard: Heard, found: dict[str, ndarray], chance: dict[str, ndarray], words: list[str], spelled: Spelling
) -> xarray.Dataset:
    """Every number at its prompt, layer and position, with what follows from the ranks."""
    whole = {name: laid(heard, values) for name, values in found.items()}
    layers = np.array(heard.layers)
    first = whole["top_id"][..., 0]
    data: dict[str, Any] = {"top": ((*AXES, "rank"), np.vectorize(spelled, otypes=[str])(whole["top_id"]))}
    for name, values in whole.items():
        data[name] = (*AXES, *(["rank"] if name.startswith("top") else ["word"] * (values.ndim - 3))), values
    ends = heard.own.sum(1).numpy()[:, None] > np.arange(first.shape[-1])
    data["settles"] = ("prompt", "token"), np.where(ends, _since(first == first[:, -1:], layers), np.nan)
    if words:
        data["word_settles"] = ("prompt", "token", "word"), _since(whole["word_rank"] == 1, layers)
    for name, values in chance.items():
        data[name] = ("layer", "word")[: values.ndim], values
    ranks = range(1, whole["top_id"].shape[-1] + 1)
    return xarray.Dataset(data, coords={"layer": layers, "rank": ranks, **({"word": words} if words else {})})


def _since(so: ndarray, layers: ndarray) -> ndarray:
    """The first layer (second axis) from which on something is so to the end; NaN where it is not so there."""
    count = np.flip(so, 1).cumprod(1).sum(1)
    return np.where(count > 0, layers[len(layers) - np.maximum(count, 1)], np.nan)
