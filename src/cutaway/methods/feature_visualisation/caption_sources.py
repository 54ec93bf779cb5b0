"""For each token of a caption: the parts of the picture, the heads and the features that wrote it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.relevance.tokens import token_relevance, written
from cutaway.methods.representation_decomposition.logit_decomposition import logit_decomposition
from cutaway.methods.result import Provenance, Result
from cutaway.methods.sparse_autoencoders.feature_effects import feature_effects
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import logit_diff
from cutaway.questions.rows import tracked

SOURCE = (
    "Elhage et al. 2021 (heads), Achtibat et al. 2024 arXiv 2402.05602 (AttnLRP), Marks et al. 2024 arXiv 2403.19647"
)
LONGEST, FEATURES, OTHERS, PAIRS = 32, 5, 5, 16
WAYS = ("straight", "any path")


@dataclass(frozen=True, eq=False, repr=False)
class CaptionSources(Result):
    """What wrote each token, as parts of l(token) - l(rival) at its place; the rival is what was next likely there.

    `patches` (way, token, row, col): what heads bring straight from each patch, exactly, and the relevance of the patch
    for the token on any path (AttnLRP); `heads` (token, layer, head) exactly, `heads_chance` the root
    mean square of the same for random pairs of words; `mlps`, `straight` (token): what MLPs and what patches straight
    bring of `number` (token), the difference itself. `probability`, `rival` (token). With a dictionary `feature`,
    `effect` (token, rank): what the difference loses without the feature, `others` (token, draw) without others.
    """

    main: ClassVar[str] = "patches"

    def summary(self) -> Any:
        """A row a token: its rival, how likely it is, the head that brings most, how that compares with chance."""
        heads = self["heads"].values
        flat = np.abs(heads).reshape(len(heads), -1)
        best = flat.argmax(1)
        table = self.data[["probability", "number", "straight", "mlps"]].to_dataframe().reset_index(drop=True)
        table.insert(0, "token", self["text"].values)
        table.insert(1, "rival", self["rival"].values)
        table["head"] = [f"{one // heads.shape[2]}.{one % heads.shape[2]}" for one in best]
        rows = np.arange(len(best))
        table["brings"] = heads.reshape(len(heads), -1)[rows, best]
        table["chance"] = self["heads_chance"].values.reshape(len(heads), -1)[rows, best]
        return table

    def note(self) -> str:
        """What is left out."""
        return "Heads, MLPs, the embedding and biases sum to the difference; a head no larger than chance says little."

    def _draw(self, ax: Axes) -> None:
        """The maps of the tokens side by side, each in its own scale."""
        maps = self["patches"].values
        size = np.abs(maps).max((2, 3), keepdims=True)
        rows = [np.concatenate([*one], 1) for one in maps / np.where(size > 0, size, 1)]
        ax.imshow(np.concatenate(rows, 0), cmap="RdBu_r", vmin=-1, vmax=1)
        side = maps.shape[-1]
        ax.set_xticks([side * (at + 0.5) for at in range(maps.shape[1])], self["text"].values, rotation=90)
        ax.set_yticks([maps.shape[2] * (at + 0.5) for at in range(len(WAYS))], WAYS)


def caption_sources(
    model: Model, inputs: Inputs, *, length: int = LONGEST, features: int = FEATURES, seed: int = 0,
    progress: bool = True,
) -> CaptionSources:  # fmt: skip
    """For every token of what a model writes about a picture: the patches, heads and features that wrote it.

    The token is held against what the model found next likely at its place, d = l(token) - l(rival). Heads, MLPs and
    patches straight: d as an exact sum (`logit_decomposition`, by source token). On any path: AttnLRP back to the
    picture, of l(token) less the mean of all logits (`token_relevance`). Features of the first dictionary of the model:
    the `features` largest by attribution, exactly (`feature_effects`). Of inputs that end in an answer the caption is
    that, else what the model writes, `length` tokens at most.

    Units: logits. Sources: Elhage et al. 2021; Achtibat et al. 2024, 2402.05602; Marks et al. 2024, 2403.19647. Beside
    heads stands their size for random pairs of words, beside features others that are on. MethodError for several rows,
    a model that writes nothing, and no picture among its positions.

    What it can NOT tell: what would be written if a part were gone, but for the features; straight leaves out what
    goes through later layers, and relevance on any path is a rule that is followed back, no effect.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:llava")
    >>> inputs = model.inputs(image=tiny.picture(), text="what is this", answer="a red dog")
    >>> found = caption_sources(model, inputs, progress=False)
    >>> found["text"].values.tolist(), found["patches"].shape
    (['a', 'red', 'dog'], (2, 3, 4, 4))
    """
    started = time.perf_counter()
    whole = inputs if inputs.answers else written(model, inputs, length)
    if len(whole.answers) != 1 or not (whole.tokens["text"].image >= 0).any():
        raise MethodError(
            f"{len(whole.answers)} captions" if len(whole.answers) != 1 else "the decoder reads no picture here",
            expected="one caption of one picture, which lies among the positions of the decoder",
            do="`model.inputs(image=…, text=…, answer=…)` of a model like LLaVA",
        )  # fmt: skip
    logits = model.run(whole).logits[0].detach().float()
    count = whole.answers[0]
    ids = whole.tensors["input_ids"][0, -count:].tolist()
    paths = token_relevance(model, whole, method="attn_lrp", seed=seed)["picture"].isel(image=0).values
    parts = [
        _token(model, whole, logits[at - count - 1], ids[at], at - count - 1, features, seed, paths[at])
        for at in tracked(range(count), "tokens", show=progress)
    ]
    data = xarray.concat(parts, "token").assign_coords(
        text=("token", [model.tokenizer.decode([one]).strip() for one in ids]), way=list(WAYS)
    )
    told = Provenance.of(
        "caption_sources", SOURCE, started=started, model=model, seed=seed, features=features, length=count,
        sites=tuple(model.dictionaries)[:1],
    )  # fmt: skip
    return CaptionSources(data.transpose("way", "token", ...), told)


def _token(
    model: Model, whole: Inputs, logits: Float[torch.Tensor, "word"], own: int, place: int, features: int, seed: int,
    any_path: Float[ndarray, "row col"],
) -> xarray.Dataset:  # fmt: skip
    """What wrote one token."""
    others = logits.clone()
    others[own] = -torch.inf
    rival = int(others.argmax())
    target = logit_diff(own, rival, place)
    made = logit_decomposition(model, whole, target, by_token=True, pairs=PAIRS, seed=seed)
    straight = made.on_grid("head_tokens").sum(("layer", "head"))
    maps = np.stack([straight.values, any_path])
    data = {
        "patches": (("way", "row", "col"), maps),
        "heads": made["heads"].isel(row=0, drop=True), "heads_chance": made["heads_chance"].isel(row=0, drop=True),
        "mlps": made["mlps"].isel(row=0, drop=True).sum("layer"), "straight": straight.sum(),
        "number": made["total"].isel(row=0, drop=True), "probability": float(logits.softmax(0)[own]),
        "rival": model.tokenizer.decode([rival]).strip(),
    }  # fmt: skip
    if model.dictionaries and features:
        found = feature_effects(model, whole, target, top=features, draws=OTHERS, seed=seed, progress=False)
        for name, key, axis, size in (
            ("feature", "number", "rank", features), ("effect", "effect", "rank", features),
            ("others", "random", "draw", OTHERS),
        ):  # fmt: skip
            data[name] = (axis, _filled(found[key].values, size))
    return xarray.Dataset(data)


def _filled(values: ndarray, size: int) -> Float[ndarray, "rank"]:
    """As many numbers as there are places, NaN behind the last."""
    return np.concatenate([values.astype(float), np.full(size - len(values), np.nan)])
