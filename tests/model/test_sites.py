"""Sites print, parse, and are selected by name or pattern."""

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from cutaway import Site
from cutaway.errors import SiteError
from world import KNOWN, opened

WORDS = {
    "resid_pre", "resid_mid", "resid_post", "embed", "final", "logits", "joint", "norm.scale", "res.out", "out",
    "pre", "post", "norm.condition", "gate", "attn.gate", "mlp.gate",
    "latent", "cross.resid_pre", "mixer.x", "mixer.gate", "mixer.conv", "mixer.dt", "mixer.B", "mixer.C", "mixer.y",
    "mixer.out", "mixer.norm.scale", "mlp.pre", "mlp.post", "mlp.out", "mlp.norm.scale", "pool.out",
    *(f"{w}.{p}" for w in ("attn", "cross") for p in ("q", "k", "v", "scores", "pattern", "z", "out", "norm.scale")),
    *(f"pool.{p}" for p in ("attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.out", "norm.scale")),
    *(f"pool.mlp.{p}" for p in ("pre", "post", "out")),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_every_site_prints_as_what_it_parses_from_and_uses_the_common_words(name):
    sites = list(opened(name).sites)
    assert len({str(site) for site in sites}) == len(sites) > 30
    for site in sites:
        again = Site.parse(str(site))
        assert (again, hash(again), str(again)) == (site, hash(site), str(site))
        assert site.part in WORDS
        assert site.axes and set(site.sizes) <= set(site.axes)


@drawn(
    st.from_regex(r"[a-z]{2,8}", fullmatch=True).filter(lambda word: word != "raw"),
    st.none() | st.integers(0, 99),
    st.sampled_from(["resid_post", "attn.z", "mlp.norm.scale"]),
    st.sampled_from([None, "image", "text"]),
)
def test_any_site_survives_printing(tower, layer, part, stream):
    site = Site(tower, layer, part, stream if layer is not None else None)
    assert Site.parse(str(site)) == site


def test_patterns_select_in_the_order_of_the_model():
    table = opened("llava").sites
    assert [str(s) for s in table["text.*.resid_post"]] == [f"text.{i}.resid_post" for i in range(3)]
    assert [str(s) for s in table["text.[0-1].attn.z"]] == ["text.0.attn.z", "text.1.attn.z"]
    both = table.select(["text.1.*", "text.1.attn.z", "vision.0.resid_pre"])
    assert len({str(s) for s in both}) == len(both) and both[0].tower == "vision"
    assert table.one("text.1.attn.z").head_axis == "head"
    with pytest.raises(SiteError, match="names 3 sites"):
        table.one("text.*.attn.z")
    assert "text.1.attn.z" in table and "text.9.attn.z" not in table


def test_towers_of_composed_models_have_their_names():
    expected = {
        "clip": {"text", "vision"}, "llava": {"vision", "connector", "text"}, "whisper": {"audio", "text"},
        "bart": {"encoder", "text"}, "sdxl": {"text", "text_2", "denoiser", "vae"}, "mamba": {"text"},
        "blip2": {"vision", "connector", "text"}, "flux": {"text", "text_2", "denoiser", "vae"},
    }  # fmt: skip
    for name, towers in expected.items():
        assert set(opened(name).sites.towers()) == towers, name


def test_where_an_architecture_lacks_a_thing_the_word_is_absent():
    assert not any(site.part.startswith("attn") for site in opened("mamba").sites)
    assert not any(site.part.startswith("mixer") for site in opened("llama").sites)
    with pytest.raises(SiteError):
        _ = opened("mamba").sites["text.*.attn.*"]


def test_unet_layers_run_in_the_order_of_their_numbers():
    model, ran = opened("sd"), []
    from world import given

    blocks = model.towers["denoiser"].blocks
    handles = [block.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(blocks)]
    model.run(given("sd"), output="latent")
    for handle in handles:
        handle.remove()
    assert ran == list(range(len(blocks))) * 2
