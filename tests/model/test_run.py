"""How activations are kept, stopped early, labelled and stacked; batches; memory."""

import gc

import pytest
import torch

from cutaway import Add, Patch, Scale, Set
from cutaway.errors import EditError, SiteError
from cutaway.zoo import tiny
from world import given, identical, opened

SITES = ["text.*.attn.z", "text.*.resid_post"]


def run(**options):
    return opened("llava").run(given("llava"), record=SITES, **options)


def test_tokens_and_heads_are_kept_as_chosen_and_in_order():
    whole, part = run(), run(tokens=[5, 2], heads=slice(1, 3))
    assert torch.equal(part["text.1.attn.z"], whole["text.1.attn.z"][:, [5, 2], 1:3])
    assert torch.equal(part["text.1.resid_post"], whole["text.1.resid_post"][:, [5, 2]])


def test_dtype_and_place_and_copies():
    assert run(dtype=torch.float32)["text.1.attn.z"].dtype == torch.float32
    assert run(keep="cpu")["text.1.attn.z"].device.type == "cpu"
    kept = run(copy=True)["text.1.resid_post"]
    assert kept.untyped_storage().nbytes() == kept.nbytes


def test_a_gradient_flows_only_when_asked():
    assert not run()["text.1.attn.z"].requires_grad
    kept = run(grad=True)
    (slope,) = torch.autograd.grad(kept.logits[0, -1, 7], kept["text.1.resid_post"])
    small = 1e-5 * slope / slope.norm()
    ahead = opened("llava").run(given("llava"), edits=Add("text.1.resid_post", small)).logits[0, -1, 7]
    assert (ahead - run().logits[0, -1, 7]).item() == pytest.approx(1e-5 * slope.norm().item(), rel=0.05)


def test_stop_ends_the_forward_after_the_last_site_and_reads_the_same():
    model, ran = opened("llava"), []
    handles = [
        b.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, b in enumerate(model.towers["text"].blocks)
    ]
    stopped = model.run(given("llava"), record="text.0.*", stop=True)
    for handle in handles:
        handle.remove()
    assert stopped.outputs is None and ran == [0]
    whole = model.run(given("llava"), record="text.0.*")
    assert all(torch.equal(stopped[site], whole[site]) for site in whole.activations)


def test_stop_within_a_tower_leaves_the_ones_behind_it_alone():
    model, ran = opened("llava"), []
    handle = model.towers["text"].blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    model.run(given("llava"), record="vision.0.attn.pattern", stop=True)
    handle.remove()
    assert not ran


def test_layers_stack_and_axes_are_labelled():
    kept = run()
    stacked = kept.stack("text.*.resid_post")
    assert torch.equal(stacked[2], kept["text.2.resid_post"])
    labelled = kept.labelled("text.1.attn.z")
    assert labelled.dims == ("batch", "token", "head", "d_head")
    assert list(labelled["token_kind"].values[:2]) == ["bos", "image"]
    with pytest.raises(SiteError):
        kept.stack("text.1.*")


def test_several_edits_on_one_site_compose_in_the_order_given():
    base = run()["text.1.resid_post"]
    edits = [Add("text.1.resid_post", 1.0), Scale("text.1.resid_post", 2.0)]
    assert torch.allclose(run(edits=edits)["text.1.resid_post"], (base + 1) * 2)
    assert torch.allclose(run(edits=edits[::-1])["text.1.resid_post"], base * 2 + 1)


def test_edits_on_parts_of_one_raw_tensor_all_land():
    model = opened("mamba")
    sites = ["text.1.mixer.B", "text.1.mixer.C", "text.1.mixer.dt"]
    edited = model.run(given("mamba"), record=sites, edits=[Set(site, float(i)) for i, site in enumerate(sites)])
    assert [edited[site].unique().tolist() for site in sites] == [[0.0], [1.0], [2.0]]


def test_an_edit_on_a_pattern_reaches_every_site_it_matches():
    kept = opened("llava").run(given("llava"), record="text.*.mlp.out", edits=Scale("text.*.mlp.out", 0.0))
    assert not kept.stack("text.*.mlp.out").any()


def test_pictures_and_texts_of_one_batch_do_not_disturb_one_another():
    model = opened("clip")
    pictures, texts = [tiny.picture(i) for i in range(3)], ["a red dog", "a cat", "a blue car on the left"]
    both = model.run(model.inputs(image=pictures, text=texts), record="vision.2.resid_post")
    for i, picture in enumerate(pictures):
        one = model.run(model.inputs(image=picture, text=texts[i]), record="vision.2.resid_post")
        assert torch.allclose(one["vision.2.resid_post"][0], both["vision.2.resid_post"][i], atol=1e-12)
        assert torch.allclose(one.logits[0, 0], both.logits[i, i], atol=1e-9)


def test_a_patch_from_one_run_spreads_over_a_batch_and_one_row_can_be_chosen():
    model, site = opened("clip"), "vision.1.attn.z"
    batch = model.inputs(image=[tiny.picture(i) for i in range(3)], text="a dog")
    donor = model.run(model.inputs(image=tiny.picture(9), text="a dog"), record=site)
    base = model.run(batch, record=site)
    edited = model.run(batch, record=site, edits=Patch(site, donor, batch=[1], head=2))
    assert torch.equal(edited[site][1, :, 2], donor[site][0, :, 2])
    assert torch.equal(edited[site][[0, 2]], base[site][[0, 2]])
    assert torch.equal(edited[site][1, :, [0, 1, 3]], base[site][1, :, [0, 1, 3]])


def test_inputs_stack_into_a_batch_and_refuse_what_does_not_line_up():
    model = opened("llava")
    one, two = (model.inputs(image=tiny.picture(i), text="a red dog") for i in range(2))
    stacked = type(one).stack([one, two])
    logits = model.run(stacked).logits
    assert torch.allclose(logits[1], model.run(two).logits[0], atol=1e-9)
    assert stacked.tokens["text"].image.max() == 1
    with pytest.raises(ValueError, match="do not line up"):
        type(one).stack([one, model.inputs(image=tiny.picture(), text="a dog on the left")])


def test_only_pictures_or_only_texts_of_a_contrastive_model():
    model = opened("clip")
    pictures = model.run(model.inputs(image=tiny.picture()), record="vision.joint")
    texts = model.run(model.inputs(text="a dog"), record="text.joint")
    both = model.run(model.inputs(image=tiny.picture(), text="a dog"), record=["vision.joint", "text.joint"])
    assert torch.allclose(pictures["vision.joint"], both["vision.joint"])
    assert torch.allclose(texts["text.joint"], both["text.joint"])


def test_a_hundred_runs_hold_no_more_tensors_than_one():
    model, inputs = opened("llava"), given("llava")
    donor = model.run(inputs, record="text.1.attn.z")

    def once():
        model.run(
            inputs, record="*.resid_post", edits=[Patch("text.1.attn.z", donor), Scale("text.0.attn.pattern", 1.0)]
        )

    def alive():
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    once()
    before = alive()
    for _ in range(100):
        once()
    assert alive() == before


def test_what_was_overwritten_in_place_after_it_was_read_is_an_error():
    model = opened("llama")
    site = "text.1.mlp.out"
    module = model.engine.seats[site].module
    handle = model.towers["text"].blocks[1].register_forward_hook(lambda m, a, out: out)
    late = module.register_forward_hook(lambda m, a, out: hold.append(out))
    hold = []
    spoil = model.towers["text"].blocks[2].register_forward_pre_hook(lambda m, a: [hold[0].add_(1.0), None][1])
    with pytest.raises(SiteError, match="copy=True"):
        model.run(given("llama"), record=site)
    hold.clear()
    model.run(given("llama"), record=site, copy=True)
    for h in (handle, late, spoil):
        h.remove()


def test_a_run_says_what_was_done_to_it():
    told = run(edits=Scale("text.1.mlp.out", 0.5)).edits
    assert told == ("Scale('text.1.mlp.out', 0.5)",)
    assert identical(run().outputs, run().outputs)


def test_labels_of_what_was_kept_are_its_own():
    whole, model = run().labelled("text.1.resid_post"), opened("llava")
    for tokens in ([5, 2], [-1], slice(3, None), range(len(whole["token"]))[::-1]):
        made = run(tokens=tokens).labelled("text.1.resid_post")
        at = list(range(len(whole["token"]))[tokens]) if isinstance(tokens, slice) else list(tokens)
        assert list(made["token_text"].values) == list(whole["token_text"].values[at])
    padded = model.run(model.inputs(text=["a dog", "a big red cat"]), record="text.1.resid_post", tokens=[-1, -2])
    assert padded.labelled("text.1.resid_post")["token_text"].values.tolist() == [["dog", "a"], ["cat", "red"]]


@pytest.mark.parametrize("selectors", [{"token": -1}, {"token": [2, -1]}, {"token": 2, "head": 1}, {"head": 3}])
def test_what_was_kept_is_written_where_it_was_and_nowhere_else(selectors):
    model, site = opened("llama"), "text.1.attn.z"
    here, there = (model.inputs(text=text) for text in ("a red dog", "a blue cat"))
    whole = model.run(there, record=site)
    part = model.run(there, record=site, tokens=[-1, 2] if "token" in selectors else None, heads=[3, 1])
    selectors = {"head": [1, 3]} | selectors
    got, want = (model.run(here, edits=Patch(site, donor, **selectors)).logits for donor in (whole, part))
    assert identical(got, want)
    for wrong in ({"head": 2, "token": -1}, {"head": 2}, {}):
        with pytest.raises(EditError, match=r"(head|token) [02] was not recorded"):
            model.run(here, edits=Patch(site, part, **wrong))
    one = model.run(there, record=site, tokens=[-1])
    with pytest.raises(EditError, match="token 1 was not recorded"):
        model.run(here, edits=Patch(site, one, token=1))
