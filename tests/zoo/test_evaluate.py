"""The measures, checked on embeddings whose answers are planted."""

import zlib

import pytest
import torch

from cutaway import data
from cutaway.data.claims import Noun
from cutaway.zoo import emoji_clip
from cutaway.zoo.evaluate import Eyes, classes, naming, naming_painted, retrieval, telling_apart, wilson


class Knowing(Eyes):
    """Sees the truth: a scene is embedded as the texts that are true of it, with a share of noise."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.generator = noise, torch.Generator().manual_seed(0)

    def _of(self, key: str) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.randn(64, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()))), dim=0
        )

    def scenes(self, scenes):
        rows = torch.stack([self._of(scene.things[0].concept) for scene in scenes])
        return rows + self.noise * torch.randn(rows.shape, generator=self.generator)

    def texts(self, texts):
        names = {form: one.name for one in data.concepts() for form in (one.one, one.name)}
        return torch.stack([self._of(names[text.removeprefix("a picture of ")]) for text in texts])


def test_naming_is_perfect_for_one_who_knows_and_chance_for_one_who_guesses():
    names = classes(50)
    top1, top5 = naming(Knowing(), names, "test", 60)
    assert top1.value == top5.value == 1.0 and top1.chance == 1 / 50 and top5.chance == 5 / 50
    guess, _ = naming(Knowing(noise=100.0), names, "artist", 400)
    assert guess.low <= 1 / 50 <= guess.high


def test_a_painted_thing_is_named_by_texts_that_name_its_paint():
    class Strict(Knowing):
        """For whom a red dog is no dog."""

        def scenes(self, scenes):
            return torch.stack([self._of(Noun(scene.things[0].concept, scene.things[0].tint).one) for scene in scenes])

        def texts(self, texts):
            return torch.stack([self._of(text.removeprefix("a picture of ")) for text in texts])

    silent, saying = naming_painted(Strict(), classes(50), 60)
    assert saying.value == 1.0 and silent.value < 0.2 and silent.n == saying.n == 60


def test_classes_share_no_word():
    chosen = [data.concept(name) for name in classes()]
    assert len(chosen) == len(set(chosen)) == 200
    assert not any(a.is_kin(b.name) for a in chosen for b in chosen if a is not b)
    assert all(set(one.artists) == set(data.ARTISTS) for one in chosen)


def test_the_drawings_of_test_are_those_of_training_and_those_of_artist_are_not():
    world = data.World(things=(1, 1), names=tuple(one.name for one in data.concepts()[:8]))
    seen, known, new = (
        {(thing.concept, thing.artist) for scene in data.scenes(split, n, 0, world) for thing in scene.things}
        for split, n in (("train", 300), ("test", 60), ("artist", 50))
    )
    assert known <= seen and len(seen) == 8 * 3 and new and not new & seen


def test_the_untrained_one_is_near_chance():
    eyes = Eyes(emoji_clip.untrained(), emoji_clip.processor())
    rows = naming(eyes, classes(), "test", 64) + telling_apart(eyes, "category", 32)
    for row in rows:
        assert row.low <= row.value <= row.high
        assert row.value < row.chance + 0.25, row


def test_pairs_group_needs_all_four():
    class Half(Eyes):
        def __init__(self):
            pass

        def scenes(self, scenes):
            return torch.eye(2).repeat(len(list(scenes)) // 2, 1)

        def texts(self, texts):  # both captions fit the first picture, the first one better
            return torch.tensor([[1.0, 0.0], [0.9, 0.1]]).repeat(len(list(texts)) // 2, 1)

    caption, picture, group = telling_apart(Half(), "category", 10)
    assert (caption.value, picture.value, group.value) == (1.0, 0.5, 0.0)


def test_retrieval_counts_ties_as_wrong():
    class Blind(Eyes):
        def __init__(self):
            pass

        def scenes(self, scenes):
            return torch.ones(len(list(scenes)), 3)

        texts = scenes

    assert [row.value for row in retrieval(Blind(), 256)] == [0.0, 0.0]


def test_wilson():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert wilson(1.0, 10)[1] == 1.0 and wilson(0.0, 10)[0] == 0.0
