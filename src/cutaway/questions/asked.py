"""A question from what a user brings: names, paths and words, for any model; what kind it is follows from the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from cutaway import data
from cutaway.errors import InputError
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.drawings import DRAWN_LABELS, drawn_crowd
from cutaway.questions.given import (
    EMOJIWORLD,
    Folder,
    bank_of,
    check_bank,
    contexts_of,
    crowd,
    read_picture,
    read_texts,
    untrained,
)
from cutaway.questions.labels import LABELS, scene_labels
from cutaway.questions.question import Question, ask, draw, match
from cutaway.source import Source
from cutaway.zoo import parted

Pictures = Any  # a picture as `model.inputs` takes it, a path, or several


class Brings(NamedTuple):
    """Which arguments of `asked` bring a part of a question: one of these must be given, and those say more of it."""

    one_of: tuple[str, ...] = ()
    further: tuple[str, ...] = ()


# What of a question models of a kind never have, so that a method which needs it is never one for them.
NEVER: Mapping[str, tuple[str, ...]] = {
    "diffusion": ("inputs.whole", "texts", "space", "end", "voice", "bank", "contexts", "others", "tasks", "opposed"),
    "contrastive": ("voice", "contexts", "tasks", "drawing"),
    "generative": ("texts", "space", "end", "bank", "drawing"),
}
_CROWD = ("pictures", "many", "skip_bad")
# What a kind of model does, and what of a question says nothing to it.
UNHEARD: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "diffusion": ("draws a --prompt", ("text", "answer", "rival", "raw")),
    "contrastive": ("matches an --image and a --text", ("answer", "rival", "step", "raw", "drawings", "word")),
    "generative": ("writes on from a --text", ("step", "drawings", "word")),
}
BRINGS: Mapping[str, Brings] = {
    "pictures": Brings(("image",), ("text",)),
    "inputs": Brings((), ("image", "text", "answer", "rival", "raw", "prompt", "step")),
    "from_words": Brings((), ("image", "text", "answer", "rival", "raw", "prompt", "step")),
    "target": Brings(("text", "answer", "prompt")),
    "drawing": Brings(("prompt",)),
    "counterpart": Brings(("counterfactual",)),
    "along": Brings(("counterfactual",)),
    "crowd": Brings((), _CROWD),
    "scenes": Brings((), _CROWD),
    "rows": Brings((), (*_CROWD, "text", "drawings")),
    "others": Brings((), _CROWD),
    "opposed": Brings((), _CROWD),
    "bank": Brings((), ("bank",)),
    "contexts": Brings((), ("bank",)),
    "labels": Brings((), ("labels",)),
}


def kinds_for(parts: Iterable[str]) -> tuple[str, ...]:
    """The kinds of models that can have all of these parts of a question.

    >>> kinds_for(["inputs", "voice"])
    ('generative',)
    """
    return tuple(kind for kind, never in NEVER.items() if not {*never} & {*parts})


def options_for(parts: Iterable[str]) -> tuple[str, ...]:
    """The arguments of `asked` that bring these parts, for any kind of model that can have all of them."""
    parts = [part.split(".")[0] for part in parts]
    mute = [{*UNHEARD[kind][1], *(() if kind == "diffusion" else ("prompt",))} for kind in kinds_for(parts)]
    brought = [BRINGS[part] for part in parts if part in BRINGS]
    every = dict.fromkeys(name for part in brought for name in (*part.one_of, *part.further))
    return tuple(name for name in every if not mute or not all(name in some for some in mute))


def asked(
    model: Model | Source | str | Path, *, image: Pictures = None, text: str | Sequence[str] = (), answer: str = "",
    rival: str = "", raw: bool = False, prompt: str = "", counterfactual: Any = None,
    pictures: str | Path | None = None, bank: str | Path | None = None, labels: Sequence[str] = (), many: int = 256,
    skip_bad: bool = False, seed: int = 0, step: int | None = None, truth: Mapping[str, ndarray] | None = None,
    floor: bool = True, drawings: int = 96, word: str = "",
) -> Question:  # fmt: skip
    """The question that fits a model: a match for CLIP and SigLIP, an answer for models that write, else a drawing.

    `image` is a picture or its path, or several; `text` the texts to match (the first is explained, the second its
    rival) or what is asked, alone and `raw` if not in the model's chat template; `counterfactual` the same with one
    thing changed: a picture, or a text or prompt. `pictures` is a folder, or the word "emojiworld" for `many` drawn
    scenes, `bank` a file with a text a line, or the same word: models of the zoo have both unasked. `labels` names what
    is known of each of the pictures: labels of scenes, or "folder" for their folders; of a model that draws, of so many
    `drawings` of prompts that cross things and backgrounds. `word` is the one of a prompt that a page begins with.
    Raises InputError for what does not fit.

    >>> from cutaway.zoo import tiny
    >>> asked("tiny:llava", image=tiny.picture(), text="what is this", answer="dog", rival="cat").kind
    'ask'
    """
    given = {key: value for key, value in locals().items() if key != "model"}
    check_bank(bank)
    if not isinstance(text, str) and len(text) > 1:
        read_texts(text)
    name = model.name if isinstance(model, Model) else str(model)
    _check_labels(labels, pictures)
    drawn = bool(labels) and pictures in (None, EMOJIWORLD)
    known = _labelled(name, pictures, labels, many, skip_bad) if labels and not drawn else None
    others = None if labels else crowd(pictures, name, many, skip_bad=skip_bad)
    images = [read_picture(one) for one in (image if isinstance(image, list | tuple) else [image]) if one is not None]
    if isinstance(counterfactual, Path):
        counterfactual = read_picture(counterfactual)
    found = model if isinstance(model, Model) else load(model)
    if drawn and found.family.kind == "diffusion":
        known = drawn_crowd(found, labels, drawings, seed)
    elif drawn:
        known = _labelled(name, pictures, labels, many, skip_bad)
    more = {
        "crowd": known[0] if known else others, "labels": known[1] if known else None, "truth": truth or {},
        "bank": bank_of(bank, found) if found.family.kind == "contrastive" else None, "seed": seed,
        "contexts": contexts_of(bank, found.name) if found.family.kind == "generative" else None,
    }  # fmt: skip
    how = {
        "image": images, "text": [text] if isinstance(text, str) else list(text), "answer": answer, "rival": rival,
        "raw": raw or None, "prompt": prompt, "counterfactual": counterfactual, "step": step, "drawings": None,
        "word": word,
    }  # fmt: skip
    made = _made(found, how, more)
    made = replace(made, code=written(model, **given))
    twin = untrained(found) if floor and made.inputs is not None else None
    if twin is None:
        return made
    before = _made(twin, how, {"seed": seed, "truth": truth or {}})
    return replace(made, floor=replace(before, words=made.words, target=made.target))


def written(model: Model | Source | str | Path, **given: Any) -> str:
    """The lines that ask such a question, with the arguments of `asked` that differ from its own.

    A model that was opened by hand is `model` in them, and what has no writing, a picture in memory, goes by the name
    of its argument: a comment says so.

    >>> print(written("tiny:clip", image="a.png", text=["a dog", "a cat"], many=256))
    model = cutaway.load('tiny:clip')
    question = questions.asked(model, image='a.png', text=['a dog', 'a cat'])
    """
    usual = {name: one.default for name, one in inspect.signature(asked).parameters.items()}
    lines, said = [opening(model)], []
    for name, value in given.items():
        one = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        plain = isinstance(one, str | int) or (isinstance(one, list) and all(isinstance(item, str) for item in one))
        if value is None or (plain and one in (usual[name], [])):
            continue
        if not plain:
            lines.append(f"# `{name}` is what was given")
        said.append(f"{name}={one!r}" if plain else f"{name}={name}")
    call = f"question = questions.asked(model, {', '.join(said)})"
    if len(call) > 100:
        call = "\n".join(["question = questions.asked(", "    model,", *(f"    {one}," for one in said), ")"])
    return "\n".join([*lines, call])


def opening(model: Model | Source | str | Path) -> str:
    """The line that opens a model, or says which it is."""
    named = not isinstance(model, Model) or parted(model.name)[0] or "/" in model.name
    if not named or (isinstance(model, Model) and model.dictionaries):
        return "# `model` is the one that was given"
    how = [] if not isinstance(model, Source) else [
        f"{one.name}={getattr(model, one.name)!r}" for one in fields(model)[1:]
        if getattr(model, one.name) != one.default
    ]  # fmt: skip
    return f"model = cutaway.load({', '.join([repr(model.name if isinstance(model, Model) else str(model)), *how])})"


def _made(model: Model, how: Mapping[str, Any], more: Mapping[str, Any]) -> Question:
    """The question of the kind that the model can be asked; without anything to run on, that of its crowd alone."""
    images, texts, other = how["image"], [text for text in how["text"] if text], how["counterfactual"]
    kind = model.family.kind
    does, unheard = UNHEARD.get(kind, ("", ()))
    lost = [name for name in unheard if {**how, "text": texts}[name] not in (None, "", [])]
    if lost:
        do = "give what it is to draw as --prompt" if kind == "diffusion" and not how["prompt"] else "leave it out"
        raise InputError(f"--{lost[0]} says nothing to '{model.name}', which {does}", do=do)
    if kind == "diffusion":
        if not how["prompt"]:
            return Question(model=model, **more)
        image = images[0] if images else None
        return draw(model, how["prompt"], step=how["step"], counterpart=other, image=image, word=how["word"], **more)
    if how["prompt"]:
        raise InputError(f"'{model.name}' draws nothing", expected="a pipeline for --prompt", do="give --text")
    if kind == "contrastive" and texts and images:
        made = match(model, images[0], how["text"], other, **more)
        return replace(made, pictures=tuple(images))
    if kind == "generative" and "audio" in model.towers:
        raise InputError(
            f"'{model.name}' answers to a sound, and a question has none",
            expected="a model of pictures, texts or prompts",
            do="`model.inputs(audio=…)` goes to `model.run` and to every method that takes inputs",
        )  # fmt: skip
    if kind == "generative" and texts:
        if len(texts) > 1:
            raise InputError(
                f"{len(texts)} texts to '{model.name}', which answers one", expected="one --text",
                do="give what it may answer as --answer and --rival",
            )  # fmt: skip
        return ask(model, images, texts[0], how["answer"], how["rival"], other, raw=bool(how["raw"]), **more)
    return Question(model=model, pictures=tuple(images), **more)


def _check_labels(labels: Sequence[str], pictures: str | Path | None) -> None:
    """Refuse what neither scenes nor drawings have, before a model is opened."""
    unknown = [label for label in labels if label not in (*LABELS, *DRAWN_LABELS)]
    if unknown and pictures in (None, EMOJIWORLD):
        raise InputError(
            f"no scene and no drawing has a label '{unknown[0]}'", expected="what is known of a scene or of a drawing",
            exists=", ".join(dict.fromkeys((*LABELS, *DRAWN_LABELS))), do="choose one of these for --label",
        )  # fmt: skip


def _labelled(
    name: str, pictures: str | Path | None, labels: Sequence[str], many: int, skip_bad: bool
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Many pictures and what is known of them: drawn scenes of one thing, or the names of sub-folders."""
    if pictures is None or str(pictures) == EMOJIWORLD:
        unknown = [label for label in labels if label not in LABELS]
        if unknown:
            raise InputError(
                f"scenes have no label '{unknown[0]}'", expected="what is known of a drawn scene",
                exists=", ".join(LABELS), do="choose one of these for --label",
            )  # fmt: skip
        scenes = list(data.scenes("test", many, world=data.World(things=(1, 1))))
        known = scene_labels(scenes)
        return scenes, {label: known[label] for label in labels}
    path = Path(pictures)
    folders = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    if len(folders) < 2:
        raise InputError(
            f"'{pictures}' holds {len(folders)} sub-folders", expected="two at least: one of pictures for each class",
            exists=", ".join(one.name for one in folders) or ("a file" if path.is_file() else "none"),
            do=f"sort the pictures into folders, or --pictures {EMOJIWORLD} for drawn scenes whose truth is known",
        )  # fmt: skip
    if list(labels) != ["folder"]:
        raise InputError(
            f"--label {labels[0]} is of drawn scenes, not of the pictures in '{pictures}'",
            expected="the sub-folders as the only label", exists=", ".join(one.name for one in folders[:5]),
            do=f"leave --label out, or --pictures {EMOJIWORLD}",
        )  # fmt: skip
    per = [Folder(one, max(3, many // len(folders)), skip=skip_bad) for one in folders]
    rows = [picture for one in per for picture in one]
    return rows, {"folder": np.repeat([one.name for one in folders], [len(one) for one in per])}
