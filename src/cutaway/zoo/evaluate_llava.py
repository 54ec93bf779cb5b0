"""What a LLaVA knows of EmojiWorld, in numbers: answers, tasks by example, and what it says that is not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import data
from cutaway.zoo.contexts import (
    TASKS,
    about_words,
    asked,
    by_example,
    kept_apart,
    neighbour,
    of_picture,
    one_of_each,
    presence,
    some_scene,
    task_scene,
    which,
)
from cutaway.zoo.conversations import Conversation, Turn, batch
from cutaway.zoo.evaluate import Row, wilson
from cutaway.zoo.language import scored, states
from cutaway.zoo.vocabulary import END, ids, vocabulary

KINDS = (
    "presence", "what", "background", "relation", "side", "count", "colour", "kind", "same", "written", "word",
)  # fmt: skip
SPLITS: tuple[data.Split, ...] = ("test", "pairs", "places", "artist")
CAPTION = Turn("caption", "What does the picture show?", "")
LONGEST = 64  # tokens of a caption
RANDOM, POPULAR, ADVERSARIAL = "random", "popular", "adversarial"


@dataclass(frozen=True)
class Trial:
    """One question: whether all of its answer was right, and what the right answer is."""

    kind: str
    right: bool
    truth: str


def evaluate(module: Any, *, n: int = 500, told: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Answers to every kind of question in every context, tasks by example, presence by POPE, captions by CHAIR.

    `n` is the number of scenes of each context, each with one question of every kind that it has: so trials are
    independent. An answer is right if greedy decoding gives all of it and ends. `told` hears what is being measured.
    """
    rows: list[Row] = []
    for split in SPLITS:
        told(f"questions, split {split}")
        rows += answers(module, f"picture, {split}", pictured(split, n))
    told("questions to blanked pictures, words and several pictures")
    rows += answers(module, "blanked picture, test", pictured("test", n), blanked=True)
    rows += answers(module, "words, test", worded("test", n))
    rows += answers(module, "several pictures, test", several("test", n))
    for way, split in (("picture", "test"), ("words", "test"), ("picture", "artist"), ("blanked picture", "test")):
        told(f"tasks by example: {way}, split {split}")
        rows += tasks(module, way, split, n)
    for split, negatives in (("test", RANDOM), ("test", POPULAR), ("test", ADVERSARIAL), ("artist", RANDOM)):
        told(f"presence, {negatives} negatives, split {split}")
        rows += pope(module, split, negatives, n)
    told("captions")
    return rows + chair(module, "test", n) + chair(module, "artist", n)


# --- answers ----------------------------------------------------------------------------------------------------------


def pictured(split: data.Split, n: int, seed: int = 0) -> list[Conversation]:
    """N scenes of a split as pictures, with one question of each kind."""
    draw = random.Random(f"pictured/{split}/{seed}")
    scenes = [some_scene(draw, split, data.DEFAULT) for _ in range(n)]
    return [Conversation(one_of_each(draw, asked(draw, scene)), (scene,), apart=True) for scene in scenes]


def worded(split: data.Split, n: int, seed: int = 0) -> list[Conversation]:
    """The same scenes and questions, told in words."""
    draw = random.Random(f"worded/{seed}")
    made = []
    for one in pictured(split, n, seed):
        words = about_words(draw, one.scenes[0]).words
        made.append(Conversation(one.turns, (), words, apart=True))
    return made


def several(split: data.Split, n: int, seed: int = 0) -> list[Conversation]:
    """Two or three pictures: which of them, and one question about one of them."""
    draw = random.Random(f"several/{split}/{seed}")
    made = []
    for _ in range(n):
        scenes = tuple(some_scene(draw, split, data.DEFAULT) for _ in range(draw.choice((2, 3))))
        number = draw.randrange(len(scenes))
        of_one = draw.choice(one_of_each(draw, asked(draw, scenes[number])))
        turns = (
            *one_of_each(draw, which(draw, scenes)),
            replace(of_picture(number + 1, of_one), kind="of one of them"),
        )
        made.append(Conversation(turns, scenes, apart=True))
    return made


def answers(module: Any, of: str, conversations: Sequence[Conversation], *, blanked: bool = False) -> list[Row]:
    """A row for each kind of question."""
    found = trials(module, conversations, blanked=blanked)
    kinds = dict.fromkeys([*KINDS, *(trial.kind for trial in found)])
    return [_row(kind, of, mine) for kind in kinds if (mine := [trial for trial in found if trial.kind == kind])]


def tasks(module: Any, way: str, split: data.Split, n: int, seed: int = 0) -> list[Row]:
    """The last answer after two to four examples: on things met in examples in training, and on things never met so."""
    rows = []
    for apart in (False, True):
        draw = random.Random(f"tasks/{way}/{split}/{apart}/{seed}")
        made = []
        for number in range(n):
            task, examples = TASKS[number % len(TASKS)], 2 + number // len(TASKS) % 3

            def scene(task: str = task, apart: bool = apart, draw: random.Random = draw) -> data.Scene:
                return task_scene(draw, task, split, lambda name: kept_apart(name) == apart)

            one = by_example(task, examples, scene, words=way == "words")
            made.append(replace(one, turns=tuple(replace(t, learnt=t is one.turns[-1]) for t in one.turns)))
        of = f"{way}, {split}, {'things never in an example' if apart else 'things met in examples'}"
        found = trials(module, made, blanked=way == "blanked picture")
        rows += [_row(f"by example: {task}", of, [t for t in found if t.kind == f"task {task}"]) for task in TASKS]
        rows += [_row("by example: all", of, found)]
    return rows


@torch.inference_mode()
def trials(module: Any, conversations: Sequence[Conversation], *, blanked: bool = False) -> list[Trial]:
    """Whether greedy decoding gives each learnt answer: every token of it is the likeliest after those before it."""
    found: list[Trial] = []
    order = sorted(conversations, key=lambda one: len(one.shown()))
    for some in _chunks(order, 20):
        made = batch(some)
        if blanked:
            made = made._replace(pictures=torch.full_like(made.pictures, 127))
        logits, truth = scored(module, made)
        hits = iter((logits.argmax(1) == truth).tolist())
        for turn in (turn for one in some for turn in one.turns if turn.learnt):
            right = all(list(islice(hits, len(ids(turn.answer)) + 1)))
            found.append(Trial(turn.kind, right, turn.answer))
    return found


# --- what is not there ------------------------------------------------------------------------------------------------


def pope(module: Any, split: data.Split, negatives: str, n: int, seed: int = 0) -> list[Row]:
    """Presence by the logits of `yes` and `no`: for each scene one thing that is there and one that is not.

    Li et al. 2023, 2305.10355. Absent things are drawn at random, from the 50 shown most often in 5000 training scenes
    (popular), or from the Unicode subgroup of the thing that is there (adversarial: things here have no company that
    they keep, which is what POPE takes).
    """
    draw = random.Random(f"pope/{split}/{negatives}/{seed}")
    made: list[Conversation] = []
    while len(made) < n:
        scene = data.scene_at(split, draw.getrandbits(40))
        name = draw.choice(scene.things).concept
        other = _absent(scene, name, negatives, draw)
        if other:
            turns = (Turn("presence", presence(name), "yes"), Turn("presence", presence(other), "no"))
            made.append(Conversation(turns, (scene,), apart=True))
    said = torch.cat([_says_yes(module, some) for some in _chunks(made, 20)])
    hit, false = int(said[:, 0].sum()), int(said[:, 1].sum())
    of = f"{negatives} negatives, {split}"
    parts = {
        "accuracy": (hit + n - false, 2 * n),
        "precision": (hit, hit + false),
        "recall": (hit, n),
        "yes ratio": (hit + false, 2 * n),
    }
    return [_share(f"POPE {name}", of, right, total, 0.5) for name, (right, total) in parts.items()] + [
        _f1(said, of, draw)
    ]


def _absent(scene: data.Scene, name: str, negatives: str, draw: random.Random) -> str | None:
    if negatives == ADVERSARIAL:
        return neighbour(scene, name, draw)
    every = popular() if negatives == POPULAR else tuple(one.name for one in data.concepts())
    fit = [one for one in every if not any(data.concept(one).is_kin(thing.concept) for thing in scene.things)]
    return draw.choice(fit)


@cache
def popular(n: int = 50) -> tuple[str, ...]:
    """The things that 5000 training scenes show most often."""
    shown = Counter(thing.concept for scene in data.scenes("train", 5000) for thing in scene.things)
    return tuple(name for name, _ in shown.most_common(n))


@torch.inference_mode()
def _says_yes(module: Any, conversations: Sequence[Conversation]) -> Float[Tensor, "scene question"]:
    """1 where the logit of `yes` is above that of `no`."""
    made = batch(conversations)
    hidden = states(module, made)[:, :-1][made.learnt[:, 1:]][::2]  # each answer is one word and its end
    yes, no = (module.lm_head(hidden)[:, vocabulary()[word]] for word in ("yes", "no"))
    return (yes > no).float().view(len(conversations), 2).cpu()


def _f1(said: Float[Tensor, "scene question"], of: str, draw: random.Random) -> Row:
    """F1 = 2 TP / (2 TP + FP + FN), its interval from 1000 resamplings of the scenes."""
    n = len(said)
    rows = torch.tensor([[draw.randrange(n) for _ in range(n)] for _ in range(1000)])

    def f1(hit: Tensor, false: Tensor) -> Tensor:
        return 2 * hit / (2 * hit + false + (1 - hit)).clamp(min=1e-9)

    low, high = f1(*said[rows].mean(1).T).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Row("POPE F1", of, 2 * n, f1(*said.mean(0)).item(), low, high, 0.5)


def chair(module: Any, split: data.Split, n: int, seed: int = 0) -> list[Row]:
    """Captions by CHAIR: the share of things mentioned that are not there, of captions with one, of things mentioned.

    Rohrbach et al. 2018, 1809.02156. A name is its own token here, so mentions are counted exactly; a kin of a thing
    that is shown counts as shown. The lower the better for the first two.
    """
    scenes = list(data.scenes(split, n, seed))
    said = [text for some in _chunks(scenes, 50) for text in captions(module, some)]
    wrong = [[name for name in names if not _shows(scene, name)] for names, scene in zip(said, scenes, strict=True)]
    told = [
        any(data.concept(name).is_kin(thing.concept) for name in names)
        for names, scene in zip(said, scenes, strict=True)
        for thing in scene.things
    ]
    mentions, chance = sum(map(len, said)), 1 - 1.5 / len(data.concepts())
    return [
        _share("CHAIR_i", f"captions, {split}", sum(map(len, wrong)), mentions, chance),
        _share("CHAIR_s", f"captions, {split}", sum(map(bool, wrong)), n, chance),
        _share("things mentioned", f"captions, {split}", sum(told), len(told), 1 - chance),
    ]


@torch.inference_mode()
def captions(module: Any, scenes: Sequence[data.Scene]) -> list[list[str]]:
    """The names of things in the caption of each scene, by greedy decoding."""
    made = batch([Conversation((CAPTION,), (scene,)) for scene in scenes])
    pixels = (made.pictures.float() / 127.5 - 1).to(module.device, module.dtype)
    prompt = made.input_ids[:, :-1].to(module.device)  # without the end of the empty answer
    told = module.generate(
        input_ids=prompt, pixel_values=pixels, attention_mask=torch.ones_like(prompt), do_sample=False,
        max_new_tokens=LONGEST,
    )[:, prompt.shape[1] :]  # fmt: skip
    names = {vocabulary()[one.name]: one.name for one in data.concepts()}
    ended = [row[: row.index(END)] if END in row else row for row in told.tolist()]
    return [[names[token] for token in row if token in names] for row in ended]


def _shows(scene: data.Scene, name: str) -> bool:
    return any(data.concept(name).is_kin(thing.concept) for thing in scene.things)


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(measure: str, of: str, found: Sequence[Trial]) -> Row:
    """The share of right answers; chance is to give the commonest one always."""
    commonest = max(Counter(trial.truth for trial in found).values())
    return _share(measure, of, sum(trial.right for trial in found), len(found), commonest / len(found))


def _share(measure: str, of: str, right: int, n: int, chance: float) -> Row:
    """A share of n trials; with none of them 0, and nothing known."""
    value = right / n if n else 0.0
    return Row(measure, of, n, value, *(wilson(value, n) if n else (0.0, 1.0)), chance)


def _chunks(values: Iterable[Any], size: int) -> Iterable[list[Any]]:
    stream = iter(values)
    while some := list(islice(stream, size)):
        yield some
