"""Banks of texts with their embeddings: the words in which embeddings and heads are explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import data
from cutaway.data.captions import at_place, on_ground
from cutaway.errors import MethodError
from cutaway.model.model import Model
from cutaway.questions.rows import Rows, embedded, unit

TOPICS = ("concept", "background", "place", "artist", "count")
_NUMBERS = ("one thing", "two things", "three things", "four things")


@dataclass(frozen=True, eq=False)
class TextBank:
    """Texts, what each is about (`topics`) and its embedding as the model `model` gives it, not normalised."""

    texts: tuple[str, ...]
    topics: tuple[str, ...]
    embeddings: Float[Tensor, "text joint"]
    model: str = ""

    def directions(self, *, centre: bool = True) -> Float[Tensor, "text joint"]:
        """Unit vectors: t / |t|, with the mean of all texts taken out and the rest normalised again when `centre`."""
        plain = unit(self.embeddings)
        return unit(plain - plain.mean(0)) if centre else plain

    def about(self, *topics: str) -> TextBank:
        """The texts on these topics only."""
        chosen = [i for i, topic in enumerate(self.topics) if topic in topics]
        if not chosen:
            raise MethodError(
                f"no text is about {', '.join(topics)}", expected="a topic of this bank",
                exists=", ".join(dict.fromkeys(self.topics)), do="choose one of these",
            )  # fmt: skip
        kept = ([self.texts[i] for i in chosen], [self.topics[i] for i in chosen])
        return TextBank(tuple(kept[0]), tuple(kept[1]), self.embeddings[chosen], self.model)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        counts = {topic: self.topics.count(topic) for topic in dict.fromkeys(self.topics)}
        return f"TextBank({len(self)} texts: {', '.join(f'{n} {topic}' for topic, n in counts.items())})"


def text_bank(
    model: Model, texts: Iterable[str], topics: Iterable[str] | None = None, *, batch: int = 128, progress: bool = True
) -> TextBank:
    """Embed texts with the model's own text tower; a text given twice is kept once.

    >>> import cutaway
    >>> text_bank(cutaway.load("tiny:clip"), ["a red dog", "a cat", "a cat"])
    TextBank(2 texts: 2 text)
    """
    if "text" not in model.towers or model.family.kind != "contrastive":
        what = "has no text tower" if "text" not in model.towers else f"is {model.family.kind}"
        raise MethodError(
            f"'{model.name}' {what}, so texts have no directions in a space that pictures share",
            expected="a contrastive model such as CLIP or SigLIP", exists=f"the towers {', '.join(model.towers)}",
            do="open a contrastive one, for instance zoo:emoji-clip",
        )  # fmt: skip
    single = isinstance(texts, str)
    texts, topics = list(texts), None if topics is None else list(topics)
    if single or (topics is not None and len(topics) != len(texts)):
        raise MethodError(
            "texts and topics do not fit", expected="a list of texts, and a topic for each or none",
            exists="one string" if single else f"{len(texts)} texts and {len(topics or ())} topics",
            do="put a single text into a list",
        )  # fmt: skip
    kept = dict(reversed(list(zip(texts, topics or ["text"] * len(texts), strict=True))))
    ordered = [text for text in dict.fromkeys(texts) if text.strip()]
    if len(ordered) < 2:
        raise MethodError(
            "a bank of fewer than two texts explains nothing", expected="two texts that differ, better some hundreds",
            exists=", ".join(map(repr, ordered)) or "none", do="give more texts",
        )  # fmt: skip
    vectors = embedded(model, ordered, "text", batch=batch, progress=progress)
    return TextBank(tuple(ordered), tuple(kept[text] for text in ordered), vectors, model.name)


def picture_bank(
    model: Model, pictures: Rows, names: Sequence[str], *, tower: str = "vision", batch: int = 32, progress: bool = True
) -> TextBank:  # fmt: skip
    """Pictures in the place of texts, each under a name, embedded by the tower they are read with.

    For a model of pictures alone (DINOv2): its states and heads are then read against what it gives for other pictures.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> picture_bank(cutaway.load("tiny:dinov2"), [tiny.picture(1), tiny.picture(2)], ["one", "other"])
    TextBank(2 texts: 2 picture)
    """
    vectors = embedded(model, pictures, tower, batch=batch, progress=progress)
    if len(set(names)) != len(vectors):
        raise MethodError(
            f"{len(vectors)} pictures and {len(set(names))} different names", expected="a name of its own for each",
            do="name every picture",
        )  # fmt: skip
    return TextBank(tuple(names), ("picture",) * len(vectors), vectors, model.name)


def file_bank(model: Model, path: str | Path, *, batch: int = 128, progress: bool = True) -> TextBank:
    """A bank from a UTF-8 file with one text a line; empty lines and lines that start with `#` are left out."""
    return text_bank(model, file_texts(path), batch=batch, progress=progress)


def file_texts(path: str | Path) -> list[str]:
    """The texts of such a file, each once; at least two, which is what a bank needs."""
    path = Path(path)
    if not path.is_file():
        raise MethodError(
            f"no file at '{path}'" if not path.is_dir() else f"'{path}' is a folder",
            expected="a text file with one text a line for the bank (`--bank`)", do="check the path",
        )  # fmt: skip
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise MethodError(
            f"'{path.name}' is not UTF-8 text", expected="one text a line, in UTF-8", do="save it as UTF-8"
        ) from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")))
    if len(texts) < 2:
        raise MethodError(
            f"'{path}', the bank of texts (`--bank`), holds fewer than two texts", expected="at least two, one a line",
            exists=f"{len(lines)} lines, of which {len(texts)} hold a text", do="add texts, better some hundreds",
        )  # fmt: skip
    return texts


def emoji_bank(
    model: Model, topics: Sequence[str] = TOPICS, *, limit: int | None = None, progress: bool = True
) -> TextBank:
    """EmojiWorld in words, in the phrasings of its captions: things, backgrounds, places, artists, numbers.

    `limit` keeps so many texts of each topic, evenly spread.
    """
    phrases = emoji_phrases(topics)
    if limit is not None:
        phrases = {topic: texts[:: max(1, -(-len(texts) // limit))] for topic, texts in phrases.items()}
    texts = [text for found in phrases.values() for text in found]
    return text_bank(model, texts, [topic for topic in phrases for _ in phrases[topic]], progress=progress)


def emoji_phrases(topics: Sequence[str] = TOPICS) -> dict[str, list[str]]:
    """The phrases of each topic, as captions say them: `a dog`, `on a blue background`, `in the top left`."""
    unknown = [topic for topic in topics if topic not in TOPICS]
    if unknown or not topics:
        raise MethodError(
            f"no topic '{', '.join(unknown)}'", expected="one topic at least", exists=", ".join(TOPICS),
            do="choose from these",
        )  # fmt: skip
    colours = list(data.COLOURS)
    pairs = list(zip(colours, colours[1:] + colours[:1], strict=True))
    grounds = [data.Background("plain", (colour,)) for colour in colours]
    grounds += [data.Background("gradient", pair) for pair in pairs]
    grounds += [data.Background("texture", pair, seed) for seed in range(3) for pair in pairs]
    made: dict[str, list[str]] = {
        "concept": [concept.one for concept in data.concepts()],
        "background": [on_ground(ground) for ground in grounds],
        "place": [at_place(place) for place in data.PLACES],
        "artist": [f"in the {artist} style" for artist in data.SEEN_ARTISTS],
        "count": [f"a picture of {number}" for number in _NUMBERS],
    }
    return {topic: made[topic] for topic in topics}


def emoji_texts(scenes: int = 128) -> list[str]:
    """Texts of EmojiWorld for a model that reads: the name of every thing, and descriptions of training scenes."""
    named = [concept.one for concept in data.concepts()]
    return [*named, *(data.description(scene).text for scene in data.scenes("train", scenes))]


def same_space(bank: TextBank, width: int, model: str = "") -> Float[Tensor, "text joint"]:
    """The bank's embeddings, or an error when they come from another model than what they should explain."""
    if bank.embeddings.shape[1] != width or (bank.model and model and bank.model != model):
        raise MethodError(
            f"these texts have {bank.embeddings.shape[1]} dimensions and come from '{bank.model}', "
            f"the space has {width} and is that of '{model}'",
            expected="a bank made with the same model", do="make it with `text_bank(model, texts)`",
        )  # fmt: skip
    return bank.embeddings.to(torch.promote_types(bank.embeddings.dtype, torch.float32))
