"""Token maps against what the models really do: a picture position holds the feature of the patch it claims."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.zoo import tiny

PROMPTS = ("llava", "paligemma", "qwen2-vl", "qwen2.5-vl", "llava-next")


def opened(name):
    return cutaway.load(f"tiny:{name}", dtype="float64")


def key(tokens, row, position, names=("image", "row", "col")):
    return tuple(int(getattr(tokens, name)[row, position]) for name in names)


@pytest.mark.parametrize("name", ["llava", "paligemma", "qwen2-vl", "qwen2.5-vl"])
def test_a_picture_token_of_the_prompt_is_the_connector_feature_of_its_patch(name):
    model = opened(name)
    pictures = [tiny.picture(0, (64, 48)), tiny.picture(1, (64, 48))]
    inputs = model.inputs(image=pictures, text=["what is this", "a red dog"])
    run = model.run(inputs, record=["connector.out", "text.embed", "text.0.resid_pre"])
    there, here = inputs.tokens["connector"], inputs.tokens["text"]
    scale = run["text.0.resid_pre"].flatten(0, 1)
    features = {
        key(there, b, t): run["connector.out"][b, t]
        for b in range(there.batch)
        for t in range(len(there))
        if there.kind[b, t] == "image"
    }
    seen = set()
    for b, t in zip(*np.nonzero(here.kind == "image"), strict=True):
        place = key(here, b, t)
        wanted = features[place]
        got = scale[b * len(here) + t]
        factor = (got @ wanted) / (wanted @ wanted)  # PaliGemma scales what enters the decoder
        assert torch.allclose(got, factor * wanted, atol=1e-9), place
        seen.add(place)
    assert seen == set(features)
    assert {place[0] for place in seen} == {0, 1}


def test_the_crops_of_llava_next_land_where_its_own_packing_puts_them():
    model = opened("llava-next")
    inputs = model.inputs(image=tiny.picture(0, (96, 40)), text="what is this")
    run = model.run(inputs, record=["connector.out", "text.0.resid_pre"])
    text, vision = inputs.tokens["text"], inputs.tokens["connector"]
    side = int(vision.row.max()) + 1
    where = {
        (int(vision.tile[b, t]), int(vision.row[b, t]), int(vision.col[b, t])): run["connector.out"][b, t]
        for b in range(vision.batch)
        for t in range(len(vision))
    }
    fine = text.tile[0] == 1
    assert fine.any() and (text.tile[0] == 0).sum() == side * side
    for t in np.flatnonzero(text.tile[0] == 0):
        assert torch.equal(run["text.0.resid_pre"][0, t], where[0, int(text.row[0, t]), int(text.col[0, t])])
    # Crops are joined into one grid and cropped to the picture: neighbours in the map are neighbours in the crops.
    found = {}
    for t in np.flatnonzero(fine):
        match = [place for place, feature in where.items() if torch.equal(feature, run["text.0.resid_pre"][0, t])]
        (tile, row, col) = next(place for place in match if place[0] > 0)
        wide = 2 if vision.batch == 5 else vision.batch - 1
        found[int(text.row[0, t]), int(text.col[0, t])] = (
            ((tile - 1) // wide) * side + row,
            ((tile - 1) % wide) * side + col,
        )
    shifts = {(gr - r, gc - c) for (r, c), (gr, gc) in found.items()}
    assert len(shifts) == 1
    newlines = text.kind[0] == "newline"
    assert newlines.sum() == len({r for r, _ in found})
    newline = model.module.model.image_newline
    assert all(torch.equal(run["text.0.resid_pre"][0, t], newline) for t in np.flatnonzero(newlines))


@pytest.mark.parametrize("name", ["clip", "siglip", "vit", "dinov2-registers", "llava", "qwen2-vl", "qwen2.5-vl"])
def test_changing_one_patch_of_the_picture_changes_the_position_that_claims_it(name):
    model = opened(name)
    given = {"text": "a dog"} if name in (*PROMPTS, "clip", "siglip") else {}
    inputs = model.inputs(image=tiny.picture(0, (64, 64)), **given)
    tokens = inputs.tokens["vision"]
    site = "vision.0.resid_pre"
    base = model.run(inputs, record=site, stop=True)[site]
    place = next(t for t in range(len(tokens)) if (tokens.row[0, t], tokens.col[0, t]) == (1, 2))
    pixels = inputs.tensors["pixel_values"].clone()
    if pixels.dim() == 4:
        size = model.towers["vision"].module.config.patch_size
        pixels[0, :, size : 2 * size, 2 * size : 3 * size] += 1.0
    else:  # Qwen: rows of flattened patches, in blocks of merged neighbours, before any window order
        raw = [t for t in range(pixels.shape[0]) if torch.equal(model_embed(model, inputs, t), base[0, place])]
        pixels[raw[0]] += 1.0
        height, width = (int(n) for n in inputs.tensors["image_grid_thw"][0][1:])
        assert raw[0] == packed_index(1, 2, width, model.towers["vision"].module.spatial_merge_size), (height, width)
    changed = model.run(model.inputs(**{**inputs.tensors, "pixel_values": pixels}), record=site, stop=True)[site]
    moved = (changed - base).abs().amax((0, 2)).nonzero().flatten().tolist()
    assert moved == [place]


def model_embed(model, inputs, patch):
    """The embedding of one raw patch, before the tower orders them into windows."""
    run = model.run(inputs, record="vision.embed", stop=True)
    return run["vision.embed"][0, patch]


def packed_index(row, col, width, merge):
    """Where the Qwen processor lays patch (row, col): merged blocks in reading order, reading order inside."""
    block = (row // merge) * (width // merge) + col // merge
    return block * merge**2 + (row % merge) * merge + col % merge


def test_a_grid_folds_values_back_onto_the_picture():
    model = opened("llava")
    inputs = model.inputs(image=tiny.picture(), text="what is this")
    tokens = inputs.tokens["text"]
    values = torch.from_numpy(tokens.row * 10.0 + tokens.col)
    folded = inputs.grid(values, tower="text")
    assert folded.tolist() == [[r * 10.0 + c for c in range(4)] for r in range(4)]


def test_prompt_words_and_pictures_are_found_by_meaning():
    model = opened("llava")
    inputs = model.inputs(image=tiny.picture(), text="a red dog")
    assert inputs.where("image", row=3).sum() == 4
    assert inputs.where(text="dog").nonzero().tolist() == [[0, int(inputs.tokens["text"].kind.shape[1]) - 1]]
    assert inputs.where("image", tower="vision", col=range(1, 3)).sum() == 8


def test_whisper_frames_know_their_seconds():
    model = opened("whisper")
    inputs = model.inputs(audio=np.zeros(8000, np.float32), text="a dog")
    times = inputs.tokens["audio"].time[0]
    extractor = model.engine.tools.sounds
    assert times[1] - times[0] == pytest.approx(2 * extractor.hop_length / extractor.sampling_rate)
    assert len(times) == model.run(inputs, record="audio.0.resid_pre")["audio.0.resid_pre"].shape[1]


def test_the_streams_of_joint_attention_lie_in_the_order_of_the_model():
    for name, order in (("sd3", ("image", "text")), ("flux", ("text", "image"))):
        model = opened(name)
        inputs = model.inputs(prompt="a red dog", steps=1, size=(32, 32))
        joint = inputs.tokens["denoiser.joint"]
        assert (joint.kind[0, 0] == "image") == (order[0] == "image")
        site = "denoiser.0.attn.q"
        run = model.run(inputs, record=[site, "denoiser.0.image.resid_pre"], output="latent")
        assert run[site].shape[3] == len(joint)
        assert run["denoiser.0.image.resid_pre"].shape[3] == (joint.kind[0] == "image").sum()
