"""Folders of SAELens and ViT-Prisma: byte by byte with files made here, and held against SAELens where it is there."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cutaway
from cutaway.errors import MethodError, SiteError, StoreError
from cutaway.methods.sparse_autoencoders import opening, prisma, saelens
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.hook_names import LAYERED, ONCE, hook_of, site_of
from cutaway.methods.sparse_autoencoders.shape import Group
from cutaway.methods.sparse_autoencoders.training import train

SITE, HERE = "text.3.resid_post", Path(__file__)


def made(name, across=False, **more):
    """A dictionary whose every number is drawn by chance."""
    to = {"target": "text.3.mlp.out", "d_out": 6} if across else {}
    found = untrained(name, SITE, 8, width=16, **to, **more)
    dice = torch.Generator().manual_seed(1)
    tensors = {key: value + 0.3 * torch.rand(value.shape, generator=dice) for key, value in found.tensors.items()}
    return type(found)(tensors, found.config, found.on)


KINDS = [
    ("relu", False, {}, "standard"), ("topk", False, {"k": 3}, "topk"), ("batch_topk", False, {"k": 3}, "jumprelu"),
    ("matryoshka", False, {"k": 3}, "jumprelu"), ("jumprelu", False, {}, "jumprelu"), ("gated", False, {}, "gated"),
    ("relu", True, {}, "transcoder"), ("relu", True, {"skip": True}, "skip_transcoder"),
    ("jumprelu", True, {}, "jumprelu_transcoder"),
    ("batch_topk", True, {"k": 3, "skip": True}, "jumprelu_skip_transcoder"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "across", "more", "kind"), KINDS, ids=[f"{k[3]}-{k[0]}" for k in KINDS])
def test_a_folder_of_saelens_is_written_and_read(name, across, more, kind, tmp_path):
    one, x = made(name, across, **more), torch.randn(5, 8)
    path = saelens.write(one, tmp_path / "kept")
    told, w = json.loads((path / "cfg.json").read_text()), load_file(path / "sae_weights.safetensors")
    assert told["architecture"] == kind and (told["d_in"], told["d_sae"]) == (8, 16)
    assert told["metadata"]["hook_name"] == "blocks.3.hook_resid_post" and told["apply_b_dec_to_input"] is not across
    assert torch.equal(w["W_enc"], one.tensors["encoder"].T) and torch.equal(w["W_dec"], one.tensors["decoder"])
    back = saelens.read(path)
    f = one.encode(x)
    assert (back.site, back.target) == (one.site, one.target)
    assert torch.equal(back.encode(x), f) and torch.equal(back.decode(f, x), one.decode(f, x))
    with pytest.raises(StoreError, match="exists already"):
        saelens.write(one, path)
    saelens.write(one, path, overwrite=True)


def theirs(folder, told, w):
    """A folder as SAELens leaves it."""
    folder.mkdir()
    save_file(w, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(told))
    return folder


def numbers(*names, d=8, m=16):
    dice, sizes = torch.Generator().manual_seed(2), {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,)}
    return {name: torch.randn(sizes.get(name, (m,)), generator=dice) for name in names}


def test_what_saelens_trained_by_batches_is_read_by_its_threshold(tmp_path):
    w = {**numbers("W_enc", "b_enc", "W_dec", "b_dec"), "topk_threshold": torch.tensor(0.8, dtype=torch.float64)}
    told = {
        "d_in": 8, "d_sae": 16, "architecture": "batchtopk", "k": 3.0, "rescale_acts_by_decoder_norm": True,
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.2.hook_mlp_out", "model_name": "gpt2"},
    }  # fmt: skip
    back, x = saelens.read(theirs(tmp_path / "a", told, w), tower="text"), torch.randn(5, 8)
    long = w["W_dec"].norm(dim=1)
    u = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * long
    f = u.relu() * (u > 0.8)
    assert back.site == "text.2.mlp.out" and torch.allclose(back.encode(x), f, atol=1e-5)
    assert torch.allclose(back.decode(f, x), f / long @ w["W_dec"] + w["b_dec"], atol=1e-5)


def test_settings_from_before_version_6_and_rows_by_their_own_norm(tmp_path):
    w = numbers("W_enc", "b_enc", "W_dec", "b_dec")
    told = {
        "d_in": 8, "d_sae": 16, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
        "hook_point": "hook_embed", "normalize_activations": "layer_norm", "model_name": "gpt2",
    }  # fmt: skip
    back, x = saelens.read(theirs(tmp_path / "a", told, w)), torch.randn(5, 8)
    apart = x - x.mean(1, keepdim=True)
    size = apart.std(1, keepdim=True)
    u = (apart / (size + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    top = u.topk(3)
    f = torch.zeros_like(u).scatter(1, top.indices, top.values.relu())
    assert back.site == "text.embed" and torch.allclose(back.encode(x), f, atol=1e-5)
    assert torch.allclose(back.decode(f, x), (f @ w["W_dec"] + w["b_dec"]) * size + x.mean(1, keepdim=True), atol=1e-5)
    averaged = theirs(tmp_path / "b", {**told, "normalize_activations": "expected_average_only_in"}, w)
    with pytest.raises(StoreError, match="does not say by what"):
        saelens.read(averaged)
    u = (2 * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    top = u.topk(3)
    f = torch.zeros_like(u).scatter(1, top.indices, top.values.relu())
    back = saelens.read(averaged, factor=2.0)
    assert torch.allclose(back.encode(x), f, atol=1e-5)
    assert torch.allclose(back.decode(f, x), (f @ w["W_dec"] + w["b_dec"]) / 2, atol=1e-5)


def test_a_trained_one_goes_there_and_back_with_its_scale_folded(tmp_path):
    x = 5 * torch.randn(300, 8)
    one = train(x, SITE, "jumprelu", width=16, steps=20, batch=64, progress=False).dictionary
    assert torch.equal(saelens.read(saelens.write(one, tmp_path / "kept")).encode(x), one.encode(x))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("level", ["layer_norm", "none"])
def test_a_transcoder_of_prisma_is_opened(level, skip, tmp_path):
    w = {**numbers("W_enc", "b_enc", "W_dec", "b_dec"), "b_dec_out": torch.randn(8)}
    w |= {"W_skip": torch.randn(8, 8)} if skip else {}
    told = {
        "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "d_in": 8,
        "d_out": 8, "hook_point_layer": 9, "layer_subtype": "hook_resid_mid", "is_transcoder": True,
        "out_hook_point_layer": 9, "layer_out_subtype": "hook_mlp_out", "normalize_activations": level,
        "model_name": "a-clip",
    }  # fmt: skip
    torch.save(w, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(told))
    back, x = prisma.read(tmp_path), torch.randn(5, 8)
    mean, size, inner = 0, 1, x
    if level == "layer_norm":
        mean, apart = x.mean(1, keepdim=True), x - x.mean(1, keepdim=True)
        size = apart.std(1, keepdim=True)
        inner = apart / (size + 1e-5)
    u = (inner - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    top = u.topk(4)
    f = torch.zeros_like(u).scatter(1, top.indices, top.values.relu())
    y = f @ w["W_dec"] + w["b_dec_out"] + (x @ w["W_skip"].T if skip else 0)
    assert (back.site, back.target) == ("vision.9.resid_mid", "vision.9.mlp.out")
    assert torch.allclose(back.encode(x), f, atol=1e-5) and torch.allclose(
        back.decode(f, x), y * size + mean, atol=1e-5
    )


def test_a_transcoder_of_prisma_may_have_no_bias_of_its_own_and_one_head_is_refused(tmp_path):
    w = {**numbers("W_enc", "b_enc", "W_dec"), "b_dec_out": torch.randn(8)}
    told = {
        "activation_fn_str": "relu", "hook_point_layer": 1, "layer_subtype": "hook_resid_mid", "is_transcoder": True,
        "out_hook_point_layer": 1, "layer_out_subtype": "hook_mlp_out", "normalize_activations": "none",
    }  # fmt: skip
    torch.save(w, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(told))
    back, x = prisma.read(tmp_path), torch.randn(5, 8)
    f = (x @ w["W_enc"] + w["b_enc"]).relu()
    assert torch.allclose(back.encode(x), f, atol=1e-6)
    assert torch.allclose(back.decode(f, x), f @ w["W_dec"] + w["b_dec_out"], atol=1e-6)
    (tmp_path / "config.json").write_text(json.dumps({**told, "hook_point_head_index": 2}))
    with pytest.raises(StoreError, match="of head 2 alone"):
        prisma.read(tmp_path)
    kept = saelens.write(made("relu"), tmp_path / "theirs")
    config = json.loads((kept / "cfg.json").read_text())
    config["metadata"]["hook_head_index"] = 0
    (kept / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match="of head 0 alone"):
        saelens.read(kept)


def test_what_prisma_pickled_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({"cfg": Path("x"), "state_dict": {}}, tmp_path / "weights.pt")
    with pytest.raises(StoreError, match="holds more than tensors"):
        prisma.read(tmp_path)


def test_names_of_hooks_and_sites_are_the_same_both_ways():
    for hook in [*ONCE, *(f"blocks.7.{name}" for name in LAYERED)]:
        assert hook_of(site_of(hook, "vision")) == hook and site_of(hook, "vision").startswith("vision.")
    here = {str(site) for site in cutaway.load("tiny:llama").sites}
    assert {site_of(hook) for hook in [*ONCE, *(f"blocks.1.{name}" for name in LAYERED)]} <= here
    with pytest.raises(SiteError, match="No site here is what"):
        site_of("blocks.3.ln2.hook_normalized")


def test_what_saelens_has_no_place_for_is_said(tmp_path):
    groups = (Group(8), Group(8, ("image",)))
    for one in (made("topk", k=3, groups=()), made("gated", across=True)):
        if one.target != one.site:
            with pytest.raises(MethodError, match="gated with another target"):
                saelens.write(one, tmp_path / "no")
    grouped = untrained("topk", SITE, 8, width=16, k=3, groups=groups)
    with pytest.raises(MethodError, match="by the kind of a position"):
        saelens.write(grouped, tmp_path / "no")
    with pytest.raises(StoreError, match="cannot be read"):
        saelens.read(tmp_path)


@pytest.mark.skipif("CUTAWAY_SAELENS" not in os.environ, reason="CUTAWAY_SAELENS names no Python that has sae-lens")
def test_saelens_itself_reads_the_same_features():
    root = HERE.parents[2]
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    asked = [os.environ["CUTAWAY_SAELENS"], str(root / "benchmarks" / "dictionaries.py"), "--agree"]
    done = subprocess.run(asked, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 5][2:]
    assert len(rows) == 18 and all(max(float(row[3]), float(row[4])) < 1e-5 for row in rows), done.stdout


OLD = {
    "architecture": "standard", "hook_name": "blocks.1.hook_resid_post", "activation_fn_str": "relu",
    "normalize_activations": "none", "apply_b_dec_to_input": True, "model_name": "gpt2",
}  # fmt: skip


def test_a_factor_of_finetuning_counts_when_it_was_used(tmp_path):
    """Before version 6 features could be written at another size than they are read at."""
    w, x = {**numbers("W_enc", "b_enc", "W_dec", "b_dec"), "scaling_factor": torch.rand(16) + 0.5}, torch.randn(5, 8)
    for used in (True, False):
        back = saelens.read(theirs(tmp_path / str(used), {**OLD, "finetuning_scaling_factor": used}, w))
        f = back.encode(x)
        assert torch.allclose(f, ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu(), atol=1e-5)
        want = (f * w["scaling_factor"] if used else f) @ w["W_dec"] + w["b_dec"]
        assert torch.allclose(back.decode(f, x), want, atol=1e-5)


def test_what_a_folder_lacks_is_said(tmp_path):
    """Nothing is guessed: neither how many features are on, nor another activation, nor a tensor."""
    w, new = numbers("W_enc", "b_enc", "W_dec", "b_dec"), {"hook_name": "blocks.1.hook_resid_post"}
    cases = [
        ({"architecture": "topk", "metadata": new}, w, "how many features"),
        ({**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": {}}, w, "how many features"),
        ({**OLD, "activation_fn_str": "tanh-relu"}, w, "tanh-relu"),
        ({"metadata": new}, w, "holds a 'None'"),
        ({"architecture": "jumprelu", "metadata": new}, w, "lacks threshold"),
        (OLD, numbers("W_enc", "W_dec", "b_dec"), "lacks b_enc"),
        (OLD, {**w, "W_dec": w["W_dec"].T.contiguous()}, "lacks W_dec"),
        ([1], w, "no settings"),
    ]
    for at, (told, tensors, said) in enumerate(cases):
        with pytest.raises(StoreError, match=said):
            saelens.read(theirs(tmp_path / str(at), told, tensors))


def test_a_folder_of_a_model_is_no_dictionary(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match="no dictionary of ViT-Prisma"):
        opening.opened(tmp_path)
