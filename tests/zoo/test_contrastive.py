"""Training is a function of the recipe: stopped and resumed, it gives the same weights bit for bit."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from cutaway.errors import InputError, LoadError
from cutaway.zoo import emoji_clip
from cutaway.zoo.contrastive import Recipe, contrastive_loss, dropped, train
from cutaway.zoo.muon import Muon, orthogonalised
from cutaway.zoo.training import PROGRESS, seconds_spent

SMALL = Recipe(steps=6, batch=18, warmup=2, contrast=0.8, whole=0.34, save_every=2)


def trained(folder: Path, *, until: int = 6, recipe: Recipe = SMALL) -> torch.nn.Module:
    model = emoji_clip.untrained(recipe.seed)
    assert len(list(islice(train(model, emoji_clip.batches(recipe), recipe, folder), until))) <= until
    return model


def test_resumed_is_straight(tmp_path):
    straight = trained(tmp_path / "straight").state_dict()
    trained(tmp_path / "halves", until=3)  # stopped after step 3: the checkpoint is of step 2
    assert json.loads((tmp_path / "halves" / PROGRESS).read_text())["step"] == 2
    resumed = trained(tmp_path / "halves").state_dict()
    before = emoji_clip.untrained(0).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not torch.equal(straight["visual_projection.weight"], before["visual_projection.weight"])
    assert seconds_spent(tmp_path / "halves") > 0


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path):
    trained(tmp_path, until=2)
    (tmp_path / "00000004.state.safetensors").write_bytes(b"half a file")
    (tmp_path / f"{PROGRESS}.new").write_text("{")
    trained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["00000006.state.safetensors"]


def test_seed_decides(tmp_path):
    other = Recipe(**{**SMALL.__dict__, "seed": 1, "steps": 1})
    one = emoji_clip.batches(SMALL)(0)
    assert torch.equal(one.pictures, emoji_clip.batches(SMALL)(0).pictures)
    assert not torch.equal(one.pictures, emoji_clip.batches(other)(0).pictures)
    assert not torch.equal(emoji_clip.batches(SMALL)(1).pictures, one.pictures)


def test_pairs_fill_their_share_of_a_batch_and_no_more():
    full = emoji_clip.batches(Recipe())(0)
    assert len(full.pictures) == len(full.input_ids) == Recipe().batch
    with pytest.raises(InputError, match="22 places of a batch of 18"):
        emoji_clip.batches(Recipe(**{**SMALL.__dict__, "contrast": 1.0}))


def test_another_recipe_is_refused(tmp_path):
    trained(tmp_path, until=2)
    with pytest.raises(LoadError, match=r"rate=0\.003"):
        trained(tmp_path, recipe=Recipe(**{**SMALL.__dict__, "rate": 0.1}))


def test_learns(tmp_path):
    """A few scenes, shown again and again, are told apart."""
    recipe = Recipe(steps=30, batch=12, warmup=4, contrast=0.0, keep=1.0, jitter=0.0, save_every=1000)
    batch = emoji_clip.batches(recipe)(0)
    steps = list(train(emoji_clip.untrained(), lambda _: batch, recipe, tmp_path))
    assert steps[0].loss > 2.2 and steps[-1].loss < 0.7 * steps[0].loss


def test_loss_of_a_perfect_match_is_small():
    assert contrastive_loss(torch.eye(5) * 100) < 1e-6
    assert contrastive_loss(torch.zeros(7, 7)).item() == pytest.approx(torch.tensor(7.0).log().item())


def test_dropped_keeps_the_class_token_and_a_share():
    hidden = torch.arange(65.0).repeat(3, 1)[..., None]
    kept = dropped(hidden, 0.5, torch.Generator().manual_seed(0))[..., 0]
    assert kept.shape == (3, 33) and (kept[:, 0] == 0).all() and all(len(set(row.tolist())) == 33 for row in kept)
    assert dropped(hidden, 1.0, torch.Generator()) is hidden


def test_rates():
    recipe = Recipe(steps=100, warmup=10, rate=1.0, whole=0.2)
    assert recipe.rate_at(0) == 0.1 and recipe.rate_at(9) == 1.0 and recipe.rate_at(100) == pytest.approx(0.01)
    assert [recipe.keep_at(step) for step in (0, 79, 80, 99)] == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("shape", [(4, 16, 16), (2, 32, 8), (3, 8, 32)])
def test_muon_orthogonalises(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(1), (left @ right).flatten(1)).min() > 0.95


def test_muon_descends():
    weight = torch.nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.0)
    before = weight.square().sum().item()
    for _ in range(100):
        weight.square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert weight.square().sum().item() < 0.2 * before


def test_every_word_of_a_caption_counts():
    """The library reads a text where it ends; an id of 2 for that end would make it look elsewhere."""
    model, words = emoji_clip.untrained(), emoji_clip.tokenizer()
    assert model.config.text_config.eos_token_id == words.eos_token_id == max(emoji_clip.vocabulary().values()) != 2
    captions = ["a dog in the top left", "a dog in the top right", "a cat in the top left", "a dog in the bottom left"]
    with torch.no_grad():
        found = model.get_text_features(**words(captions, padding=True, return_tensors="pt")).pooler_output
    assert torch.pdist(found).min() > 1e-4
