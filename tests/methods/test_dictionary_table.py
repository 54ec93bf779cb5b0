"""One table of dictionaries: its numbers are those of the single measures, and the floors stand beside them."""

import numpy as np
import pytest
import torch

from cutaway import data, store
from cutaway.errors import MethodError, StoreError
from cutaway.methods.result import load
from cutaway.methods.sparse_autoencoders.baselines import Directions
from cutaway.methods.sparse_autoencoders.dictionary_quality import DictionaryQuality, dictionary_quality
from cutaway.methods.sparse_autoencoders.dictionary_worth import dictionary_worth
from cutaway.methods.sparse_autoencoders.monosemantic import locality, mean_of, monosemanticity
from cutaway.methods.sparse_autoencoders.quality import quality
from cutaway.methods.sparse_autoencoders.recovered import loss_recovered
from cutaway.model.dictionary import Neurons
from cutaway.zoo import tiny
from world import noise, opened

SITE = "vision.1.resid_post"
PICTURES = [tiny.picture(seed) for seed in range(24)]


def own(seed: int, site: str = SITE) -> Directions:
    directions = torch.nn.functional.normalize(noise(48, 32, seed=seed).float(), dim=-1)
    return Directions(site, directions, torch.zeros(32), k=5)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "store"
    return store.harvest(opened("clip"), PICTURES, SITE, folder, batch=24, progress=False)


@pytest.fixture(scope="module")
def inputs():
    return opened("clip").inputs(image=PICTURES[:3], text=["a dog", "a red cat", "a fox on a mat"])


@pytest.fixture(scope="module")
def found(kept, inputs) -> DictionaryQuality:
    return dictionary_quality(
        opened("clip"), {"own": [own(0), own(1)]}, kept, untrained=own(2), inputs=inputs, embeddings=noise(24, 6),
        labels={"half": np.arange(24) % 2}, seeds=2, progress=False,
    )  # fmt: skip


def test_the_numbers_are_those_of_the_single_measures(found, kept, inputs):
    for seed in (0, 1):
        one, row = own(seed), found.data.sel(dictionary="own", seed=seed)
        sums = quality(one, kept)
        assert float(row["explained"]) == sums.value.explained and float(row["l0"]) == 5
        assert float(row["explained_by_kind"].sel(kind="cls")) == sums.by_kind["cls"].explained
        assert row["density"].values.tolist() == sums.densities.inside.tolist()
        back = loss_recovered(opened("clip"), one, inputs, progress=False)
        assert float(row["recovered_mean"]) == pytest.approx(back.of_mean)
        score = monosemanticity(one, kept, noise(24, 6)).value
        assert float(row["monosemanticity"]) == pytest.approx(mean_of(score))
        assert float(row["morans_i"]) == pytest.approx(mean_of(locality(one, kept, kind="image").value()))


def test_floors_are_as_sparse_and_as_many_and_neurons_are_the_place_itself(found):
    data = found.data
    assert data["dictionary"].values.tolist() == ["own", "untrained", "random", "neurons", "neurons, as sparse"]
    assert data["l0"].sel(dictionary=["random", "neurons, as sparse"], seed=0).values.tolist() == [5, 5]
    assert found.provenance.options["widths"]["random"] == 48
    whole = data.sel(dictionary="neurons", seed=0)
    for name in ("explained", "recovered_mean", "recovered_zero"):
        assert float(whole[name]) == pytest.approx(1, abs=1e-5)
    chance = float(data["monosemanticity"].sel(dictionary="random").mean())
    assert abs(chance) < 0.2  # the embedder is noise


def test_the_noise_of_a_reseed_is_told_and_the_table_is_kept(found, tmp_path):
    table = found.summary().set_index("dictionary")
    assert "±" in table.loc["own", "explained"] and "±" not in table.loc["untrained", "explained"]
    mean, far = map(float, table.loc["random", "explained"].split(" ± "))
    values = found["explained"].sel(dictionary="random").values
    assert mean == pytest.approx(values.mean(), abs=1e-3) and far == pytest.approx(values.std(ddof=1), abs=1e-3)
    back = load(found.save(tmp_path / "table.nc"))
    assert isinstance(back, DictionaryQuality) and "reseed" in back.note() and back.plot().get_legend() is not None


def test_features_of_pictures_and_words_are_counted_for_a_decoder(tmp_path):
    model, site = opened("llava"), "text.1.resid_post"
    items = [model.inputs(image=picture, text="a red dog", answer="dog") for picture in PICTURES[:2]]
    kept = store.harvest(model, items, site, tmp_path / "both", progress=False)
    made = dictionary_quality(model, {"own": own(0, site)}, kept, inputs=items[0], kinds=["image"], seeds=1,
                              progress=False)  # fmt: skip
    shares = made.data.sel(dictionary="neurons", seed=0)
    assert 0 < float(shares["shared"] + shares["picture"] + shares["text"]) <= 1
    assert {"bos", "image", "text"} <= set(made["kind"].values.tolist()) and "morans_i" in made.data


@pytest.mark.checks("dictionary_worth", "truth", "baseline", "floor")
def test_what_a_model_was_opened_with_is_measured_on_scenes(tmp_path):
    """The numbers are those of a store of the same scenes; beside them stand chance and the untrained."""
    scenes = list(data.scenes("test", 12))
    model = opened("clip").with_dictionaries(own(0))
    found = dictionary_worth(model, scenes, seeds=1, progress=False)
    kept = store.harvest(opened("clip"), scenes, SITE, tmp_path / "scenes", batch=16, progress=False)
    table = found.data.sel(seed=0)
    assert float(table["explained"].sel(dictionary="own")) == pytest.approx(quality(own(0), kept).value.explained)
    assert table["dictionary"].values.tolist() == ["own", "untrained", "random", "neurons", "neurons, as sparse"]
    assert float(table["explained"].sel(dictionary="neurons")) == pytest.approx(1, abs=1e-5)
    assert abs(float(table["l0"].sel(dictionary="untrained")) - 5) < 1
    assert float(table["explained"].sel(dictionary="random")) > float(table["explained"].sel(dictionary="untrained"))
    with pytest.raises(MethodError, match="without a dictionary"):
        dictionary_worth(opened("clip"), scenes, progress=False)


def test_a_transcoder_has_no_neurons_and_other_places_are_refused(kept, tmp_path):
    sites = ["vision.1.mlp.out", SITE]
    both = store.harvest(opened("clip"), PICTURES[:4], sites, tmp_path / "both", batch=4, progress=False)

    class Across(Directions):
        target = "vision.1.mlp.out"

    across = Across(SITE, own(0).directions, torch.zeros(32))
    made = dictionary_quality(opened("clip"), {"across": across}, both, progress=False)
    assert made["dictionary"].values.tolist() == ["across"]
    with pytest.raises(MethodError, match="of 2 places"):
        dictionary_quality(opened("clip"), {"a": across, "b": Neurons(SITE, torch.zeros(32))}, both)
    with pytest.raises(StoreError):
        dictionary_quality(opened("siglip"), {"own": own(0)}, kept)
