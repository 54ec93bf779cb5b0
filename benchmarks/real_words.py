"""SmolLM2-135M taken apart: its lens, where it keeps the name that comes next, which heads bring it. See real.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

import cutaway
from cutaway import Ablate, targets
from cutaway.methods import tuned_lens, word_lens
from cutaway.methods.table import method
from cutaway.model.model import Model
from cutaway.questions.question import Question

PAIRS = (("Mary", "John"), ("Sarah", "Tom"), ("Emma", "James"), ("Alice", "Paul"))
TEMPLATES = (
    "When {a} and {b} went to the store, {s} gave a drink to",
    "Then {a} and {b} had a long argument, and afterwards {s} said to",
    "While {a} and {b} were working at the office, {s} decided to give a book to",
)
FACTS = (
    "The capital of France is", "The capital of Japan is", "The opposite of hot is", "The color of grass is",
    "The largest planet in the solar system is", "Water is made of hydrogen and",
    "The author of Romeo and Juliet is William", "A dog is a kind of",
)  # fmt: skip
LAYERS = (-1, 4, 9, 14, 19, 24, 27, 28, 29)
STEPS, POSITIONS, DRAWS = 24, 8, 4
EVERY = 3  # layers between two that are patched by position
HEADS = 9


def opened(folder: Path, seed: int | None = None) -> Model:
    """The model; with a seed, a twin of the same shape with random weights."""
    model = cutaway.load(folder)
    if seed is None:
        return model
    torch.manual_seed(seed)
    return cutaway.load(AutoModelForCausalLM.from_config(model.module.config), processor=model.tokenizer)


@dataclass(frozen=True, eq=False)
class Names:
    """One template with every pair of names in both orders, as a question: which name comes next."""

    model: Model
    template: str
    pairs: tuple[tuple[str, str], ...] = PAIRS

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        return [order for pair in self.pairs for order in (pair, pair[::-1])]

    def inputs(self, *, swapped: bool) -> Any:
        """The texts; `swapped` has the other name say it, and so the other name comes next."""
        return self.model.inputs(text=[self.template.format(a=a, b=b, s=a if swapped else b) for a, b in self.rows])

    @cached_property
    def question(self) -> Question:
        target = targets.logit_diff([a for a, _ in self.rows], [b for _, b in self.rows])
        made = Question(model=self.model, kind="ask", inputs=self.inputs(swapped=False), target=target,
                        words=self.rows[0], text=self.template)  # fmt: skip
        return replace(made, counterpart=replace(made, inputs=self.inputs(swapped=True)))

    @cached_property
    def difference(self) -> np.ndarray:
        """The logit of the name that comes next less that of the other, each row."""
        found = self.question.target(self.model.run(self.question.inputs))
        return found.numpy(force=True)

    def direct(self) -> xarray.Dataset:
        """What each head adds to it directly, and how far the sum is from the model's own number."""
        return method("logit_decomposition").apply(self.question).result.data

    def patched(self, over: str, **options: Any) -> xarray.Dataset:
        """What returns of it in the swapped text when one place is as in the text."""
        return method("activation_patching").apply(self.question, over=over, **options).result.data

    def ablated(self, **axes: Any) -> np.ndarray:
        """How much of it is lost without a head (zero), mean over rows, (layer, head)."""
        cells = self.model.grid(Ablate("text.*.attn.z"), head=range(HEADS), **axes)
        made = self.model.sweep(self.question.inputs, cells, self.question.target, progress=False)
        return -made.change.mean("row").values.reshape(-1, HEADS)


# --- the lens ---------------------------------------------------------------------------------------------------------


def texts() -> list[str]:
    """Some plain English: what scikit-learn says of its data sets, in pieces of about 60 words."""
    folder = files("sklearn.datasets") / "descr"
    words = " ".join(one.read_text(encoding="utf-8") for one in sorted(folder.iterdir(), key=lambda f: f.name)
                     if one.name.endswith(".rst")).split()  # fmt: skip
    return [" ".join(words[at : at + 60]) for at in range(0, len(words) - 60, 60)]


def lens(model: Model, twin: Model, steps: int = STEPS) -> tuple[str, Figure]:
    """How early each layer says what the model says at its end: as it stands, tuned, and with random weights."""
    started = time.process_time()
    tuned = tuned_lens(model, texts(), steps=steps, positions=POSITIONS, batch=1, progress=False)
    took = time.process_time() - started
    read = {
        name: [word_lens(one, one.inputs(text=text), tuned=fit, draws=DRAWS, progress=False) for text in FACTS]
        for name, one, fit in (("lens", model, None), ("tuned", model, tuned), ("random weights", twin, None))
    }
    rows, curves = [], {}
    for name, found in read.items():
        same = [(one["top_id"][..., 0] == one["top_id"].isel(layer=-1)[..., 0]).isel(prompt=0) for one in found]
        agree = xarray.concat([one.rename(token="at") for one in same], "at").mean("at").sel(layer=list(LAYERS))
        far = np.mean([one["kl"].isel(prompt=0).mean("token").values for one in found], 0)
        curves[name] = far
        chosen = [far[layer + 1] for layer in LAYERS]
        rows.append([f"{name}: same word", *(f"{value:.0%}" for value in agree.values)])
        rows.append([f"{name}: nats away", *(f"{value:.2f}" for value in chosen)])
    noise = np.mean([one["random_kl"].values for one in read["lens"]], 0)
    rows.append(["random directions: nats away", *(f"{noise[layer + 1]:.2f}" for layer in LAYERS)])
    made = table(["after layer", *("embedding" if layer < 0 else str(layer) for layer in LAYERS)], rows)
    positions = sum(one.lengths[0] for one in read["lens"])
    fit = f"{steps} steps of {POSITIONS} positions, {took:.0f} s of processor time"
    made += f"\n\n{len(FACTS)} prompts, {positions} positions. The tuned lens: {fit}."
    figure = Figure(figsize=(5.2, 2.9), dpi=110, layout="constrained")
    ax = figure.subplots()
    for name, far in curves.items():
        ax.plot(range(-1, len(far) - 1), far, label=name, linestyle=":" if name == "random weights" else "-")
    ax.set(xlabel="layer", ylabel="nats from the model's own answer")
    ax.legend(fontsize=8)
    return made, figure


# --- names ------------------------------------------------------------------------------------------------------------


def names(model: Model, twins: Sequence[Model], templates: Sequence[str] = TEMPLATES) -> str:
    """Does it do the task at all."""
    rows = []
    for template in templates:
        own, floors = Names(model, template), [Names(twin, template) for twin in twins]
        right, total = int((own.difference > 0).sum()), len(own.rows)
        floor = ", ".join(f"{int((one.difference > 0).sum())}" for one in floors)
        size = ", ".join(f"{float(one.difference.mean()):+.2f}" for one in floors)
        rows.append([template, f"{right} of {total}", f"{own.difference.mean():+.2f}",
                     f"{own.difference.min():+.2f}", floor, size])  # fmt: skip
    columns = ["template", "right", "mean", "least", "right, random weights", "mean, random weights"]
    return table(columns, rows)


def places(model: Model, twin: Model) -> tuple[str, Figure]:
    """By layer and position, on the first template: where the name that comes next is carried."""
    own, floor = (Names(one, TEMPLATES[0], PAIRS[:2]) for one in (model, twin))
    layers = range(EVERY - 1, model.sites.towers()["text"], EVERY)
    data = own.patched("token", sites=[f"text.{layer}.resid_post" for layer in layers])
    noise = [one.difference - one.question.target(one.model.run(one.question.counterpart.inputs)).numpy(force=True)
             for one in (own, floor)]  # fmt: skip
    words = [model.tokenizer.decode([i]) for i in own.question.inputs.tensors["input_ids"][0].tolist()]
    found, random = data["mean"], data["random"]
    rows = []
    for at in (9, 10, len(words) - 1):
        one = [found.isel(token=at).sel(layer=layer) for layer in layers]
        unrelated = [random.isel(token=at).sel(layer=layer) for layer in layers]
        rows.append([f"{at}: {role(words, at)}", *(f"{float(value):+.2f}" for value in one)])
        rows.append([f"{at}: from an unrelated row", *(f"{float(value):+.2f}" for value in unrelated)])
    made = table(["position, after layer", *map(str, layers)], rows)
    gaps = [float(np.abs(one).mean()) for one in noise]
    made += f"\n\n{len(own.rows)} rows. Text and swapped text lie {gaps[0]:.2f} logits apart, "
    made += f"with random weights {gaps[1]:.2f}."
    figure = Figure(figsize=(5.6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    values = found.transpose("layer", "token").values
    image = ax.imshow(values, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=7)
    shown = [role(words, at) for at in range(len(words))]
    ax.set_xticks(range(len(words)), shown, rotation=60, ha="right", fontsize=7)
    ax.set(ylabel="layer")
    ax.set_title("share of the answer that returns", fontsize=9)
    figure.colorbar(image, ax=ax)
    return made, figure


def role(words: Sequence[str], at: int) -> str:
    """A position by its word; of a name, by what it is."""
    known = {1: "next name", 3: "other name", 9: "who gives"}
    return known.get(at, words[at].strip())


def heads(model: Model, twins: Sequence[Model], templates: Sequence[str] = TEMPLATES) -> tuple[str, Figure]:
    """Every head by four measures, over the templates; the same of twins with random weights."""
    own = [_measures(Names(model, template, PAIRS[:2])) for template in templates]
    mean = {name: np.mean([one[name] for one in own], 0) for name in own[0]}
    whole = Names(model, templates[0], PAIRS[:1]).ablated()
    order = np.argsort(-mean["direct"].ravel())[:5].tolist() + np.argsort(-mean["ablated"].ravel())[:5].tolist()
    order += np.argsort(-whole.ravel())[:3].tolist() + np.argsort(mean["direct"].ravel())[:2].tolist()
    rows = []
    for at in dict.fromkeys(order):
        layer, head = divmod(at, HEADS)
        each = [[one[name][layer, head] for one in own] for name in mean]
        cells = [f"{np.mean(some):+.2f} ({min(some):+.2f} to {max(some):+.2f})" for some in each]
        rows.append([f"{layer}.{head}", *cells, f"{whole[layer, head]:+.2f}"])
    floors = [_measures(Names(twin, templates[0], PAIRS[:1])) for twin in twins]
    largest = [f"{max(float(np.abs(one[name]).max()) for one in floors):.3f}" for name in mean]
    rows.append(["largest of any head, random weights", *largest, ""])
    made = table(["layer.head", "direct effect, logits", "patched at the end, share",
                  "ablated at the end, logits lost", "ablated everywhere, logits lost"], rows)  # fmt: skip
    both = {**mean, "everywhere": whole}
    pairs = [("direct", "patched"), ("direct", "ablated"), ("patched", "ablated"), ("ablated", "everywhere")]
    ranks = [f"{a} and {b} {spearmanr(both[a].ravel(), both[b].ravel())[0]:.2f}" for a, b in pairs]
    stable = np.mean([spearmanr(own[i]["direct"].ravel(), own[j]["direct"].ravel())[0]
                      for i in range(len(own)) for j in range(i)])  # fmt: skip
    made += f"\n\nRank correlation over all {mean['direct'].size} heads: {', '.join(ranks)}; "
    made += f"direct effects of two templates {stable:.2f}."
    figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained")
    for ax, name, said in zip(figure.subplots(1, 3), ("direct", "ablated", "everywhere"),
                              ("direct effect", "ablated at the end", "ablated everywhere"), strict=True):  # fmt: skip
        most = float(np.abs(both[name]).max())
        image = ax.imshow(both[name], aspect="auto", origin="lower", cmap="RdBu_r", vmin=-most, vmax=most)
        ax.set(xlabel="head", title=said)
        figure.colorbar(image, ax=ax)
    return made, figure


def _measures(asked: Names) -> dict[str, np.ndarray]:
    """Of each head, (layer, head), at the last position: logits added directly, share brought back, logits lost."""
    direct = asked.direct()
    assert float(direct["error"].max()) < 1e-2, float(direct["error"].max())
    last = asked.question.inputs.tensors["input_ids"].shape[1] - 1
    return {
        "direct": direct["heads"].mean("row").transpose("layer", "head").values,
        "patched": asked.patched("head", at=-1)["mean"].transpose("layer", "head").values,
        "ablated": asked.ablated(token=[last]),
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; numbers to the right."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
