"""One stream of rows, whatever it comes in: the same inputs, in constant memory, or a refusal that says why."""

import weakref

import numpy as np
import pytest
import torch
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cutaway import data
from cutaway.data import EmojiWorld, Scene, collate, scenes
from cutaway.errors import MethodError
from cutaway.methods.causal_tracing import activation_patching
from cutaway.methods.linear_probing import linear_probing
from cutaway.methods.linear_probing.erasure import erase
from cutaway.methods.logit_lens import logit_lens
from cutaway.questions.bank import text_bank
from cutaway.questions.pairs import closer_to
from cutaway.questions.rows import again, check_rows, embedded, feed, prepared, tracked
from world import gap, opened

WORLD = EmojiWorld("test", n=5)
SCENES = [WORLD.scene(i) for i in range(5)]
PICTURES = [data.render(scene) for scene in SCENES]
CAPTIONS = [WORLD.caption(scene) for scene in SCENES]


class Listed(Dataset):
    """A data set in torch's way: numbers and a length, no end; examples are tuples with a label behind."""

    def __init__(self, rows, labelled=True):
        self.rows, self.labelled = rows, labelled

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        row = self.rows[at % len(self.rows)]
        return (row, at) if self.labelled else row


class Streamed(IterableDataset):
    """A data set without a length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


TENSORS = [WORLD[i]["picture"] for i in range(5)]
ARRAY = np.stack([np.asarray(picture) for picture in PICTURES])
SEEN = {
    "list": lambda: PICTURES,
    "tuple": lambda: tuple(SCENES),
    "generator": lambda: (data.render(scene) for scene in SCENES),
    "stream of scenes": lambda: iter(SCENES),
    "array": lambda: ARRAY,
    "tensor": lambda: torch.stack(TENSORS),
    "EmojiWorld": lambda: WORLD,
    "EmojiWorld, PIL": lambda: EmojiWorld("test", n=5, form="pil"),
    "examples": lambda: ({"image": picture, "label": 3} for picture in PICTURES),
    "loader of EmojiWorld": lambda: DataLoader(WORLD, 2, collate_fn=collate),
    "data set": lambda: Listed(TENSORS),
    "loader of tuples": lambda: DataLoader(Listed(TENSORS), 3),
    "loader of tensors": lambda: DataLoader(Listed(TENSORS, labelled=False), 3),
    "loader without batches": lambda: DataLoader(Listed(TENSORS), batch_size=None),
    "loader of lists": lambda: DataLoader(Listed(PICTURES), 2, collate_fn=list),
    "loader of columns": lambda: DataLoader(Listed(PICTURES), 2, collate_fn=lambda got: tuple(zip(*got, strict=True))),
    "stream without a length": lambda: DataLoader(Streamed(TENSORS), 2),
    "inputs": lambda: (opened("clip").inputs(image=[picture]) for picture in PICTURES),
    "loader of inputs": lambda: DataLoader(
        Listed(PICTURES, labelled=False), 2, collate_fn=lambda got: opened("clip").inputs(image=got)
    ),
    "inputs among rows": lambda: [PICTURES[0], opened("clip").inputs(image=PICTURES[1:4]), PICTURES[4]],
}
SAID = {
    "list": lambda: CAPTIONS,
    "generator": lambda: (text for text in CAPTIONS),
    "array": lambda: np.array(CAPTIONS),
    "EmojiWorld": lambda: WORLD,
    "loader of EmojiWorld": lambda: DataLoader(WORLD, 2, collate_fn=collate),
    "data set": lambda: Listed(CAPTIONS),
    "loader of tuples": lambda: DataLoader(Listed(CAPTIONS), 2),
    "loader of texts": lambda: DataLoader(Listed(CAPTIONS, labelled=False), 2),
    "loader of examples": lambda: DataLoader(Listed([{"text": text} for text in CAPTIONS], labelled=False), 2),
}


@pytest.mark.parametrize("kind", SEEN)
def test_pictures_come_in_anything_that_can_be_gone_over(kind):
    found = embedded(opened("clip"), SEEN[kind](), "vision", batch=2, progress=False)
    assert gap(found, embedded(opened("clip"), PICTURES, "vision", progress=False)) < 1e-12


@pytest.mark.parametrize("kind", SAID)
def test_texts_come_in_anything_that_can_be_gone_over(kind):
    found = embedded(opened("clip"), SAID[kind](), "text", batch=2, progress=False)
    assert gap(found, embedded(opened("clip"), CAPTIONS, "text", progress=False)) < 1e-12


@pytest.mark.parametrize("name", ["siglip", "dinov2", "vit"])
def test_other_towers_are_fed_in_the_same_way(name):
    stream = (picture for picture in PICTURES)
    sizes = [made.tokens["vision"].batch for made in feed(opened(name), stream, "vision", batch=2, progress=False)]
    assert sizes == [2, 2, 1]


def test_memory_does_not_grow_with_the_stream():
    made: list[weakref.ref] = []
    handed = 0

    def stream():
        nonlocal handed
        for i in range(40):
            handed += 1
            picture = data.render(SCENES[i % 5])
            made.append(weakref.ref(picture))
            yield picture

    most = 0
    for n, inputs in enumerate(feed(opened("clip"), stream(), "vision", batch=4, progress=False), 1):
        assert handed == 4 * n  # nothing is taken before it is needed
        made += [weakref.ref(tensor) for tensor in inputs.tensors.values()]
        del inputs
        most = max(most, sum(one() is not None for one in made))
    assert handed == 40 and most <= 6  # a batch of pictures at most


def test_a_bar_needs_no_length(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(tracked(iter(range(7)), "counting")) == list(range(7))
    assert "counting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a dog", r"this is a str, not rows.*a single one into a list"),
        (PICTURES[0], "not rows.*a single one into a list"),
        (7, "an int, which cannot be gone over"),
        (SCENES[0], "a Scene, not rows"),
        (ARRAY[0], "a ndarray, not rows"),
        (TENSORS[0], "a Tensor, not rows"),
        ({"picture": PICTURES}, "a dict with names.*one of its columns"),
        ({"a", "b"}, "a set, which has no order"),
        ([], "a list without a row"),
        (iter(()), "a tuple_iterator gave no row.*make it anew"),
        ((one for one in ()), "a generator gave no row"),
        (DataLoader(Streamed([])), "a DataLoader gave no row"),
        ([{"label": 3}], r"has no picture.*picture, image.*label.*name it"),
        (Streamed([{"pixel_values": TENSORS[0]}]), r"pixel_values.*model.inputs\(\*\*row\)"),
    ],
)
def test_what_is_no_stream_of_rows_is_refused(rows, said):
    look = check_rows if isinstance(rows, (int, Scene, Image)) else embedded  # the second says what it takes
    with pytest.raises(MethodError, match=f"(?is){said}"):
        look(opened("clip"), rows, "vision")


def test_other_nonsense_is_refused():
    with pytest.raises(MethodError, match=r"No tower 'audio'.*a tower of this model"):
        list(feed(opened("clip"), PICTURES, "audio"))
    with pytest.raises(MethodError, match="Batches of 0 rows"):
        list(feed(opened("clip"), PICTURES, "vision", batch=0))
    used = iter(PICTURES)
    embedded(opened("clip"), used, "vision", progress=False)
    with pytest.raises(MethodError, match="is used up"):
        embedded(opened("clip"), used, "vision", progress=False)


def test_what_is_gone_over_twice_must_have_numbers():
    model = opened("clip")
    for rows in (iter(PICTURES), (one for one in PICTURES), DataLoader(Listed(TENSORS), 2), Streamed(TENSORS)):
        with pytest.raises(MethodError, match=r"gone over once.*a list, or a data set.*of a loader, give the data set"):
            again(model, rows, "vision")
    numbered = again(model, Listed(TENSORS), "vision")
    assert len(list(numbered)) == 5 and numbered[-1][1] == 4 and [label for _, label in numbered[1:3]] == [1, 2]
    with pytest.raises(MethodError, match="gone over once"):
        erase(model, iter(PICTURES), [0, 1, 0, 1, 0], site="vision.1.resid_post")
    with pytest.raises(MethodError, match="gone over once"):
        activation_patching(
            model, iter(PICTURES), PICTURES, closer_to(model, CAPTIONS[:1], CAPTIONS[1:2]), progress=False
        )
    with pytest.raises(MethodError, match="gone over once"):
        closer_to(model, iter(CAPTIONS), CAPTIONS)


def test_methods_take_streams():
    model, labels = opened("clip"), np.arange(20) % 2
    some = list(scenes("test", 20, 3))
    whole, stream, named = (
        linear_probing(model, rows, {"x": labels}, seeds=(0,), sites="vision.joint", progress=False)["score"]
        for rows in (some, iter(some), Listed(some))
    )
    assert (whole == stream).all() and (whole == named).all()
    words = text_bank(model, iter(CAPTIONS), (f"topic {i}" for i in range(5)), progress=False)
    assert len(words) == len(set(CAPTIONS))
    lens = [logit_lens(model, rows, words, batch=2, progress=False)["pooled"] for rows in (PICTURES, iter(PICTURES))]
    assert (lens[0] == lens[1]).all()
    erased = [erase(model, rows, labels, site="vision.1.resid_post", draws=1, progress=False)["score"]
              for rows in (some, Listed(some))]  # fmt: skip
    assert (erased[0] == erased[1]).all()


def test_pairs_come_from_data_sets_of_examples_too():
    model = opened("clip")
    target = closer_to(model, CAPTIONS[:3], CAPTIONS[1:4])
    found = [
        activation_patching(model, one, other, sites="vision.1.resid_post", over=(), target=target, progress=False)
        for one, other in ((PICTURES[:3], PICTURES[2:]), (Listed(TENSORS[:3]), torch.stack(TENSORS[2:])))
    ]
    assert np.allclose(found[0]["clean"], found[1]["clean"]) and np.allclose(found[0]["mean"], found[1]["mean"])


def test_a_batch_is_prepared_as_it_is_fed():
    made = prepared(opened("clip"), [(TENSORS[0], 7), {"picture": PICTURES[0]}, SCENES[0]], "vision")
    assert (made.tensors["pixel_values"] == made.tensors["pixel_values"][0]).all()
