"""The Python behind each view of a report: short programs that compute its numbers anew from the files beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PICTURE, OTHER, BANK = "picture.png", "counterfactual.png", "bank.txt"


@dataclass(frozen=True)
class Snippets:
    """Writes the programs. `folder` is where the report lies, `model` the name it opens by ("" for an object).

    `bank` is "emojiworld", "file", or "" for none; `crowd` "emojiworld", a folder, or "" for none.
    """

    folder: Path
    model: str
    texts: tuple[str, ...]
    bank: str = ""
    crowd: str = ""
    many: int = 0
    skip: bool = False

    def start(self, *imports: str, model: str = "") -> str:
        """Imports, the model, the picture and the texts."""
        name = model or self.model
        opened = f"model = cutaway.load({name!r})" if name else "# `model` is the one that was given to `explain`"
        lines = ["import cutaway", *sorted(imports), "", opened, f"picture = {str(self.folder / PICTURE)!r}"]
        return "\n".join([*lines, f"texts = {_listed(self.texts)}"])

    def asked(self) -> str:
        """The user's texts as a bank."""
        if len(self.texts) > 1:
            return "asked = text_bank(model, texts)"
        return 'asked = TextBank((*texts,), ("asked",), embedded(model, texts, "text"), model.name)'

    @property
    def _asked(self) -> list[str]:
        if len(self.texts) > 1:
            return ["from cutaway.questions.bank import text_bank"]
        return ["from cutaway.questions.rows import embedded", "from cutaway.questions.bank import TextBank"]

    def _parts(self, *more: str) -> str:
        home = "from cutaway.methods.representation_decomposition import representation_decomposition"
        return self.start(home, *self._asked, *more) + f"\n{self.asked()}\n"

    def patches(self) -> str:
        """What each patch adds."""
        return self._parts() + (
            "parts = representation_decomposition(model, [picture], by_token=True)\n"
            'effect = parts.effect(asked, "head_tokens").sum(("layer", "head"))  # cosine\n'
            "added = parts.on_grid(effect).isel(item=0)\n"
            f"print(({self._aimed('added')}).to_pandas().round(3))"
        )

    def by_word(self, text: int) -> str:
        """What the patches add for a text by each of its words."""
        home = "from cutaway.methods.representation_decomposition import representation_decomposition"
        return self.start(home, "from cutaway.questions.rows import embedded") + (
            f"\nwords = texts[{text}].split()\n"
            'shorter = [" ".join(words[:at] + words[at + 1 :]) for at in range(len(words))]\n'
            f'vectors = embedded(model, [texts[{text}], *shorter], "text")\n'
            "parts = representation_decomposition(model, [picture], by_token=True)\n"
            'effect = parts.effect(vectors, "head_tokens").sum(("layer", "head"))  # cosine\n'
            "added = parts.on_grid(effect).isel(item=0).values\n"
            "for word, without in zip(words, added[1:]):\n"
            "    print(word)\n"
            "    print((added[0] - without).round(3))"
        )

    def _aimed(self, name: str) -> str:
        """The first text's part of an array, less that of its rival."""
        less = f" - {name}.sel(text=texts[1])" if len(self.texts) > 1 else ""
        return f"{name}.sel(text=texts[0]){less}"

    def bars(self, text: int, rival: int | None = None) -> str:
        """The terms of the similarity with a text (less that with its rival), and their sum."""
        less = "" if rival is None else f" - effect.sel(text=texts[{rival}])"
        return self._parts() + (
            "parts = representation_decomposition(model, [picture])\n"
            "effect = parts.effect(asked).isel(item=0)  # cosine, one number a term\n"
            f"wanted = effect.sel(text=texts[{text}]){less}\n"
            "print(wanted.to_series().round(4))\n"
            "print(float(wanted.sum()))  # the model's own number"
        )

    def lens(self) -> str:
        """The lens at every layer: what the patches say, and what is made of them."""
        return self._lens() + (
            'print(lens["pooled"].isel(picture=0).to_pandas().round(3))  # what reads the patches\n'
            'for layer in lens["layer"].values:\n'
            '    print(layer, lens["patch"].isel(picture=0).sel(layer=layer, text=texts[0]).values.round(3), sep="\\n")'
        )

    def growth(self) -> str:
        """The number that is explained at each layer."""
        return self._lens() + (
            f'pooled = lens["pooled"].isel(picture=0)\nprint(({self._aimed("pooled")}).to_pandas().round(3))'
        )

    def last_layer(self, centred: bool) -> str:
        """What each patch says at the last layer."""
        return self._lens(centred) + "print(lens.heat_map(texts[0]).to_pandas().round(3))"

    def _lens(self, centred: bool = False) -> str:
        home = "from cutaway.methods.logit_lens import logit_lens"
        many = self._many()
        start = self.start(home, *self._asked, *(many[0] if centred else ()))
        if centred:
            run = f"{many[1]}\nlens = logit_lens(model, [picture, *pictures[:63]], asked, centre=True)\n"
        else:
            run = "lens = logit_lens(model, [picture], asked)\n"
        return f"{start}\n{self.asked()}\n{run}"

    def heads(self, named: bool) -> str:
        """What heads add, and the texts they vary with."""
        span = "from cutaway.methods.text_explanation import text_span"
        homes = [span, *self._many()[0], *self._bank()[0]] if named else []
        code = self._parts(*homes) + (
            "parts = representation_decomposition(model, [picture])\n"
            'effect = parts.effect(asked, "heads").isel(item=0)\n'
            f"print(({self._aimed('effect')}).to_pandas().round(3))"
        )
        if not named:
            return code
        return code + (
            f"\n\n{self._many()[1]}\n{self._bank()[1]}\n"
            "spans = text_span(representation_decomposition(model, pictures), bank, picks=min(3, len(bank)))\n"
            "print(spans.named().to_string())"
        )

    def splice(self) -> str:
        """The embedding as a few texts."""
        homes = [
            "from cutaway.questions.rows import embedded, unit",
            "from cutaway.methods.text_explanation import splice",
            *self._many()[0],
            *self._bank()[0],
        ]
        return self.start(*homes) + (
            f"\n{self._many()[1]}\n{self._bank()[1]}\n"
            'mean = unit(embedded(model, pictures, "vision").double()).mean(0)\n'
            'print(splice(embedded(model, [picture], "vision"), bank, mean=mean).top())'
        )

    def nearest(self) -> str:
        """The nearest texts of the bank."""
        homes, made = self._bank()
        return self.start("from cutaway.questions.rows import embedded, unit", *homes) + (
            f"\n{made}\n"
            'cosine = (unit(embedded(model, [picture], "vision")) @ unit(bank.embeddings).T)[0]\n'
            "for index in cosine.argsort(descending=True)[:12]:\n"
            '    print(f"{cosine[index]:.3f}", bank.texts[index])'
        )

    def similarity(self, model: str = "") -> str:
        """The model's own similarities."""
        return self.start(model=model) + (
            "\nrun = model.run(model.inputs(image=picture, text=texts))\n"
            "for index, text in enumerate(texts):\n"
            '    print(f"{float(cutaway.targets.similarity(index)(run)):.4f}", text)'
        )

    def patching(self, over: str, sites: tuple[str, ...], whole: bool) -> str:
        """One patching map; `whole` says that the sites are those of all layers."""
        site: object = f"vision.*.{sites[0].split('.', 2)[2]}" if whole else list(sites)
        homes = [
            "from cutaway.methods.causal_tracing import activation_patching",
            "from cutaway.model.targets import margin",
        ]
        rival = 1 if len(self.texts) > 1 else None
        return self.start(*homes) + (
            f"\nclean = model.inputs(image=picture, text=texts)\n"
            f"other = model.inputs(image={str(self.folder / OTHER)!r}, text=texts)\n"
            f"found = activation_patching(\n    model, clean, other, sites={site!r}, over=({over!r},), "
            f"target=margin(0, {rival}),\n)\n"
            'print(found["recovery"])'
        )

    def _many(self) -> tuple[list[str], str]:
        if self.crowd == "emojiworld":
            made = f'pictures = [data.scene_at("test", index) for index in range({self.many})]'
            return ["from cutaway import data"], made
        skip = ", skip=True" if self.skip else ""
        return ["from cutaway.questions.given import Folder"], f"pictures = Folder({self.crowd!r}, {self.many}{skip})"

    def _bank(self) -> tuple[list[str], str]:
        name, call = {
            "emojiworld": ("emoji_bank", "emoji_bank(model)"),
            "file": ("file_bank", f"file_bank(model, {str(self.folder / BANK)!r})"),
        }[self.bank]
        return [f"from cutaway.questions.bank import {name}"], f"bank = {call}"


def _listed(texts: tuple[str, ...]) -> str:
    """A list of texts, one a line where they are long."""
    short = repr(list(texts))
    if len(short) < 90:
        return short
    return "[\n" + "".join(f"    {text!r},\n" for text in texts) + "]"
