"""What a CLIP knows of EmojiWorld, in numbers: naming things, and telling pictures apart that differ in one factor."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from cutaway import data
from cutaway.data.claims import Noun

T = TypeVar("T")
PROMPTS = ("{}", "a picture of {}")
CLASSES = 200
SPLITS: tuple[data.Split, ...] = ("test", "places", "artist")
RIVALS = 256  # pictures, and as many captions, among which one finds its own


@dataclass(frozen=True)
class Row:
    """One measure: the share of `n` trials that came out right, its 95 % interval, and the share chance gives."""

    measure: str
    of: str
    n: int
    value: float
    low: float
    high: float
    chance: float


def evaluate(module: Any, processor: Any, *, n: int = 2000, told: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Zero-shot naming on three splits and among all things there are, retrieval among strangers and one-factor pairs.

    `n` is the number of pictures of each zero-shot row; of painted things and of the pairs of each factor there are a
    quarter as many. Held-out scenes throughout. `told` hears what is being measured.
    """
    eyes = Eyes(module, processor)
    rows = []
    names = classes(CLASSES)
    for split in SPLITS:
        told(f"naming, split {split}")
        rows += naming(eyes, names, split, n)
    told("naming among all there is")
    rows += naming(eyes, tuple(one.name for one in data.concepts()), "test", n)
    told("naming, painted things")
    rows += naming_painted(eyes, names, n // 4)
    told("retrieval")
    rows += retrieval(eyes, n)
    for factor in data.FACTORS:
        told(f"pairs that differ in {factor}")
        rows += telling_apart(eyes, factor, n // 4)
    return rows


class Eyes:
    """A CLIP and its processor, on any device, asked for unit embeddings of scenes and texts."""

    def __init__(self, module: Any, processor: Any) -> None:
        self.module, self.processor = module, processor

    @torch.inference_mode()
    def scenes(self, scenes: Iterable[data.Scene]) -> Float[Tensor, "n joint"]:
        """Embeddings of scenes, drawn at the size the model sees."""
        side = self.module.config.vision_config.image_size
        found = []
        for some in _chunks(scenes, 250):
            pictures = data.pictures([replace(scene, canvas=(side, side)) for scene in some])
            pixels = self.processor.image_processor(list(pictures), return_tensors="pt")
            features = self.module.get_image_features(**pixels.to(self.module.device, self.module.dtype))
            found.append(normalize(features.pooler_output.float(), dim=-1).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def texts(self, texts: Iterable[str]) -> Float[Tensor, "n joint"]:
        """Embeddings of texts."""
        found = []
        for some in _chunks(texts, 500):
            words = self.processor.tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            features = self.module.get_text_features(**words.to(self.module.device))
            found.append(normalize(features.pooler_output.float(), dim=-1).cpu())
        return torch.cat(found)


def classes(n: int = CLASSES, seed: int = 0) -> tuple[str, ...]:
    """N concepts that every artist draws, no two of which share a word for themselves."""
    pool = list(data.concepts(artist=data.UNSEEN_ARTIST))
    random.Random(seed).shuffle(pool)
    chosen: list[data.Concept] = []
    for one in pool:
        if len(chosen) < n and not any(one.is_kin(other.name) or other.is_kin(one.name) for other in chosen):
            chosen.append(one)
    return tuple(one.name for one in chosen)


def naming(eyes: Eyes, names: tuple[str, ...], split: data.Split, n: int, seed: int = 0) -> list[Row]:
    """Zero-shot top-1 and top-5 on scenes of one thing as its artist drew it."""
    world = data.World(things=(1, 1), names=names, tinted=0.0)
    scenes = list(data.scenes(split, n, seed, world))
    rank = _ranks(eyes.scenes(scenes) @ class_texts(eyes, names).T, _truth(scenes, names))
    of = f"{split}, {len(names)} concepts"
    return [row(f"zero-shot top-{k}", of, rank < k, k / len(names)) for k in (1, 5)]


def naming_painted(eyes: Eyes, names: tuple[str, ...], n: int, seed: int = 0) -> list[Row]:
    """Zero-shot top-1 on scenes of one painted thing, by texts that leave its paint out and by texts that name it."""
    world = data.World(things=(1, 1), names=names, tinted=1.0)
    every = (data.scene_at("test", index, seed, world) for index in count())
    scenes = list(islice((scene for scene in every if scene.things[0].tint), n))
    pictures, truth = eyes.scenes(scenes), _truth(scenes, names)
    silent, saying = pictures @ class_texts(eyes, names).T, torch.zeros(n, len(names))
    for tint in data.TINTS:
        mine = [i for i, scene in enumerate(scenes) if scene.things[0].tint == tint]
        saying[mine] = pictures[mine] @ class_texts(eyes, names, tint).T
    ways = {"texts without the paint": silent, "texts with the paint": saying}
    return [
        row("zero-shot top-1", f"painted, {way}, {len(names)} concepts", _ranks(scores, truth) < 1, 1 / len(names))
        for way, scores in ways.items()
    ]


def class_texts(eyes: Eyes, names: tuple[str, ...], tint: str | None = None) -> Float[Tensor, "class joint"]:
    """Each concept (in a paint) as the mean embedding of its prompts."""
    told = eyes.texts([prompt.format(Noun(name, tint).one) for name in names for prompt in PROMPTS])
    return normalize(told.view(len(names), len(PROMPTS), -1).mean(1), dim=-1)


def _truth(scenes: list[data.Scene], names: tuple[str, ...]) -> Int[Tensor, "n"]:
    return torch.tensor([names.index(scene.things[0].concept) for scene in scenes])


def retrieval(eyes: Eyes, n: int, seed: int = 0) -> list[Row]:
    """Recall@1 of a scene's own caption among those of 256 scenes, and of the scene among them by its caption."""
    items = list(data.items("test", max(1, n // RIVALS) * RIVALS, seed))
    pictures, texts = eyes.scenes(item.scene for item in items), eyes.texts(item.caption.text for item in items)
    scores = torch.stack([a @ b.T for a, b in zip(pictures.split(RIVALS), texts.split(RIVALS), strict=True)])
    own = torch.arange(RIVALS)
    ways = {"picture to text": scores, "text to picture": scores.mT}
    return [
        row("recall@1", f"{way}, {RIVALS} rivals", torch.cat([_ranks(s, own) for s in some]) < 1, 1 / RIVALS)
        for way, some in ways.items()
    ]


def telling_apart(eyes: Eyes, factor: str, n: int, seed: int = 0) -> list[Row]:
    """Pairs that differ in one factor: picks each picture its own caption, each caption its own picture, or both.

    `caption` and `picture` are per choice (chance 1/2), `group` per pair, all four choices right (chance 1/6:
    Winoground, Thrush et al. 2022, 2204.03162).
    """
    pairs = list(data.pairs(factor, n, "test", seed))
    pictures = eyes.scenes(scene for pair in pairs for scene in (pair.a, pair.b)).view(n, 2, -1)
    texts = eyes.texts(one.text for pair in pairs for one in (pair.caption_a, pair.caption_b)).view(n, 2, -1)
    score = torch.einsum("nid,ntd->nit", pictures, texts)
    caption = torch.stack([score[:, 0, 0] > score[:, 0, 1], score[:, 1, 1] > score[:, 1, 0]], 1)
    picture = torch.stack([score[:, 0, 0] > score[:, 1, 0], score[:, 1, 1] > score[:, 0, 1]], 1)
    both = caption.all(1) & picture.all(1)
    found = {"caption": (caption.flatten(), 1 / 2), "picture": (picture.flatten(), 1 / 2), "group": (both, 1 / 6)}
    return [row(f"pairs: {measure}", factor, right, chance) for measure, (right, chance) in found.items()]


def _ranks(scores: Float[Tensor, "n class"], truth: Any) -> Float[Tensor, " n"]:
    """How many classes score at least as high as the right one, itself aside."""
    own = scores.gather(1, truth[:, None])
    return (scores >= own).sum(1).float() - 1


def row(measure: str, of: str, right: Bool[Tensor, " n"], chance: float) -> Row:
    """The share of trials that came out right, with its interval."""
    value, n = right.float().mean().item(), len(right)
    return Row(measure, of, n, value, *wilson(value, n), chance)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share seen in n trials (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(values)
    while some := list(islice(stream, size)):
        yield some
