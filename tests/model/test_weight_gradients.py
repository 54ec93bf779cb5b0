"""Gradients of weights row by row, against torch's own for each row alone in float64, and what is left behind."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import cutaway
from cutaway import targets
from cutaway.errors import InputError, SiteError
from cutaway.model.pieces import elsewhere, layers, pieces, share
from cutaway.model.weight_gradients import weight_gradients
from cutaway.zoo import tiny
from world import fresh, noise

TEXTS = ["a red dog", "a cat"]


def made(name):
    """Two rows of each family, and a target a row."""
    model = fresh(name)
    picture = tiny.picture()
    pictures = [picture, picture.transpose(0)]
    if name == "clip":
        return model, model.inputs(image=pictures, text=TEXTS), targets.similarity()
    if name == "llava":
        said = [f"<image> {text}" for text in TEXTS]
        return model, model.inputs(image=[[one] for one in pictures], text=said, answer=TEXTS), targets.answer()
    inputs = model.inputs(prompt=TEXTS, image=pictures, step=1, steps=3)
    return model, inputs, targets.denoising_error()


def by_torch(model, inputs, target, row):
    """Every parameter's gradient of the target of one row of the batch, by torch."""
    root = model.module if model.engine.pipeline is None else model.towers["denoiser"].module
    front = "" if model.engine.pipeline is None else next(n for n, m in model.engine.roots.items() if m is root) + "."
    named = dict(root.named_parameters())
    with torch.enable_grad(), model.engine.taken():
        outputs = inputs.call(model.module, inputs.tensors)
        value = target(model.run(inputs).__class__(outputs, inputs, {}, {}, (), model.engine))[row]
        found = torch.autograd.grad(value, list(named.values()), allow_unused=True, materialize_grads=True)
    return {f"{front}{name}": one for name, one in zip(named, found, strict=True)}


def matrix(layer, path, slopes):
    """The gradient of a layer as the matrix that a piece is part of."""
    weight, bias = slopes[f"{path}.weight"], slopes.get(f"{path}.bias")
    weight = weight[:, None] if weight.dim() == 1 else weight.flatten(1)
    weight = weight.T if type(layer).__name__ == "Conv1D" else weight
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


@pytest.mark.parametrize("name", ["clip", "llava", "sd", "sd3"])
def test_each_row_has_the_gradient_that_torch_gives_it(name):
    model, inputs, target = made(name)
    every_one = pieces(model)
    chosen = every_one[::4] if name == "sd" else every_one  # a UNet has hundreds of a few kinds
    found = weight_gradients(model, inputs, target, chosen)
    every = layers(model.engine)
    theirs = [by_torch(model, inputs, target, row) for row in range(2)]
    for piece in chosen:
        ours = found.of(piece)
        for row in range(2):
            true = matrix(every[piece.layer], piece.layer, theirs[row])
            assert (ours[row] - true).abs().max() <= 1e-6 * true.abs().max() + 1e-12, piece
    assert found.values.shape == (2,) and share(model, every_one) > 0.98
    assert not any(module._forward_hooks for module in every.values() if "Embedding" not in type(module).__name__)


def test_projections_and_parts_are_those_of_the_whole():
    model, inputs, target = made("clip")
    chosen = (
        *pieces(model, ["vision.1.attn[2]", "text.embed", "vision.embed"]),
        *pieces(model, "text.1.mlp.norm.scale"),
    )
    found = weight_gradients(model, inputs, target, chosen)
    whole = weight_gradients(model, inputs, target, pieces(model))
    full = {one.layer: one for one in whole.pieces}
    for seed, piece in enumerate(chosen):
        part = whole.of(full[piece.layer])[:, slice(*piece.rows), slice(*piece.columns)]
        left, right = noise(piece.shape[0], 3, seed=seed), noise(piece.shape[1], 2, seed=seed + 50)
        assert torch.allclose(found.of(piece), part, atol=1e-14)
        assert torch.allclose(found.of(piece, left, right), left.T @ part @ right, atol=1e-12)
        assert torch.allclose(found.of(piece, left), left.T @ part, atol=1e-12)


def test_moments_are_sums_of_squares_of_both_sides():
    model, inputs, target = made("clip")
    chosen = pieces(model, ["vision.1.mlp.out", "text.embed", "text.1.mlp.norm.scale"])
    found = weight_gradients(model, inputs, target, chosen)
    for piece in chosen:
        inner, outer = found.moments(piece)
        assert inner.shape == (piece.shape[1],) * 2 and len(outer) == piece.shape[0]
        assert torch.allclose(inner, inner.T) and inner.diagonal().min() >= 0
    site = model.run(inputs, record="vision.1.mlp.post")["vision.1.mlp.post"].flatten(0, 1)
    (piece,) = pieces(model, "vision.1.mlp.out")
    assert torch.allclose(found.moments(piece)[0][:-1, :-1], site.T @ site)


def test_a_weight_in_two_places_has_one_gradient_and_one_row_gets_all():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=19, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                         tie_word_embeddings=True)  # fmt: skip
    module = LlamaForCausalLM(config).double()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    model = cutaway.load(module)
    inputs = model.inputs(input_ids=torch.tensor([[3, 5, 3], [1, 2, 4]]))

    def target(run):
        return run.logits[:, -1].log_softmax(-1)[:, 7]

    (piece,) = pieces(model, "text.logits")
    assert piece in pieces(model, "text.embed") and piece.shape == (19, 8)
    made = weight_gradients(model, inputs, target, [piece])
    found, (inner, outer) = made.of(piece), made.moments(piece)
    assert inner.shape == (8, 8) and outer.shape == (19,)  # of a table the second is its diagonal
    assert not any(p.requires_grad for p in module.parameters()) and not module.lm_head._forward_hooks
    weight = module.lm_head.weight.requires_grad_()
    for row in range(2):
        (true,) = torch.autograd.grad(module(inputs.tensors["input_ids"]).logits[row, -1].log_softmax(-1)[7], weight)
        assert torch.allclose(found[row], true)
    alone = weight_gradients(model, inputs, lambda run: target(run).sum()[None], [piece]).of(piece)
    assert torch.allclose(alone[0], found.sum(0))


def test_what_cannot_be_done_says_why():
    model, _, target = made("clip")
    with pytest.raises(SiteError, match=r"No weights lie at 'vision\.1\.resid_post'"):
        pieces(model, "vision.1.resid_post")
    with pytest.raises(SiteError, match="No head 9"):
        pieces(model, "vision.1.attn[9]")
    few = pieces(model, "vision.1.mlp.out")
    with pytest.raises(InputError, match="does not depend"):
        weight_gradients(model, model.inputs(text=TEXTS), lambda run: run.outputs.pooler_output[:, 0], few)
    both = model.inputs(image=[tiny.picture()] * 3, text=TEXTS)
    with pytest.raises(InputError, match="rows"):
        weight_gradients(model, both, targets.similarity(0), pieces(model, "text.1.mlp.out"))
    sd = fresh("sd")
    with pytest.raises(InputError, match="one evaluation"):
        weight_gradients(sd, sd.inputs(prompt="a", steps=2), target, pieces(sd, "denoiser.1.attn.q"))


def test_other_places_have_as_many_numbers():
    model = fresh("clip")
    head = pieces(model, "vision.1.attn[2]")
    others = elsewhere(model, head, seed=1)
    assert [one.shape for one in others] == [one.shape for one in head]
    assert not {one.layer for one in others} & {one.layer for one in head}
    assert elsewhere(model, head, seed=1) == others != elsewhere(model, head, seed=2)


def test_half_precision_is_right_to_its_digits():
    _, inputs, target = made("clip")
    coarse, fine = cutaway.load("tiny:clip", dtype="bfloat16"), fresh("clip")
    (piece,) = pieces(fine, "vision.1.mlp.out")
    half = weight_gradients(coarse, inputs.to("cpu", torch.bfloat16), target, [piece]).of(piece)
    whole = weight_gradients(fine, inputs, target, [piece]).of(piece)
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half.flatten().double(), whole.flatten(), 0) > 0.98


def test_inputs_made_where_gradients_are_off_can_be_read_by_the_target():
    model = cutaway.load("tiny:llama")
    (piece,) = pieces(model, "text.1.mlp.out")
    with torch.inference_mode():
        inputs = model.inputs(text="a dog is", answer="red")
        found = weight_gradients(model, inputs, targets.answer(), [piece]).of(piece)
    assert torch.isfinite(found).all() and found.abs().max() > 0
