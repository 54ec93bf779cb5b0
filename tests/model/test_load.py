"""Opening: folders that the libraries write, objects already loaded, dtypes, attention kernels."""

import json
import shutil

import pytest
import torch

import cutaway
from cutaway.errors import InputError, LoadError
from cutaway.model import load
from cutaway.zoo import tiny
from world import PT, alike, given, identical, library_call, opened


def same_weights(one, other):
    """Bit for bit, name by name, in every module of a model or pipeline."""
    theirs = [root.state_dict() for root in other.engine.roots.values()]
    found = [root.state_dict() for root in one.engine.roots.values()]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(found, theirs, strict=True)
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "llava", "qwen2-vl", "vit", "gpt2", "whisper", "paligemma"])
def test_a_saved_model_opens_from_its_folder_with_its_processor(name, tmp_path):
    tiny.save(name, tmp_path, dtype=torch.float64)
    model = cutaway.load(tmp_path, dtype="float64")
    prepared = given(name)
    assert alike(library_call(model, prepared), library_call(opened(name), prepared))
    assert same_weights(model, opened(name))
    modalities = tiny.TINY[name].modalities
    words = {"text": "a red dog on the left"} if "text" in modalities else {}
    picture = {"image": tiny.picture()} if "image" in modalities else {}
    if name != "whisper":
        again = model.inputs(**words, **picture)
        assert {k: v.tolist() for k, v in again.tensors.items()} == {k: v.tolist() for k, v in prepared.tensors.items()}


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_saved_pipeline_opens_from_its_folder(name, tmp_path):
    tiny.save(name, tmp_path, dtype=torch.float64)
    model = cutaway.load(str(tmp_path), dtype=torch.float64)
    assert alike(library_call(model, given(name)), library_call(opened(name), given(name)))
    assert same_weights(model, opened(name))


def test_a_pipeline_saved_without_a_part_opens_without_it_and_its_places_are_known(tmp_path):
    pipeline, _ = tiny.build("sd3", dtype=torch.float64)
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text_encoder_3"):
        type(pipeline).from_pretrained(tmp_path)
    model = cutaway.load(str(tmp_path), dtype=torch.float64)
    inputs = model.inputs(prompt="a red dog", steps=2, guidance=3.0, size=(32, 32))
    run = model.run(inputs, record=["denoiser.0.attn.pattern", "denoiser.0.text.resid_pre"], **PT)
    assert alike(run.outputs, library_call(model, inputs))
    words, joint = inputs.tokens["denoiser.text"], inputs.tokens["denoiser.joint"]
    assert run["denoiser.0.text.resid_pre"].shape[-2] == len(words) == 16 + 256  # as many as the pipeline leaves to T5
    assert run["denoiser.0.attn.pattern"].shape[-1] == len(joint) == 64 + len(words)
    assert (words.kind[:, 16:] == "pad").all()
    short = model.inputs(prompt="a red dog", steps=2, guidance=3.0, size=(32, 32), length=0)
    assert len(short.tokens["denoiser.text"]) == 16 and short.tensors["max_sequence_length"] == 0
    assert alike(model.run(short, **PT).outputs, library_call(model, short))
    with pytest.raises(InputError, match="`length=` cannot be -1"):
        model.inputs(prompt="a red dog", length=-1)
    empty = run["denoiser.0.text.resid_pre"][..., 16:, :]
    assert torch.equal(empty, empty[..., :1, :].expand_as(empty))


def test_a_loaded_object_is_left_as_it_is_and_needs_its_processor_for_words():
    module, processor = tiny.build("clip")
    config, hooks = module.config.to_dict(), [len(m._forward_hooks) for m in module.modules()]
    bare = cutaway.load(module)
    assert bare.module is module
    with pytest.raises(InputError, match="without a tokenizer"):
        bare.inputs(text="a dog")
    ready = cutaway.load(module, processor=processor)
    run = ready.run(ready.inputs(image=tiny.picture(), text="a dog"), record="*.resid_post")
    again = bare.run(bare.inputs(**run.inputs.tensors), record="*.resid_post")
    assert identical(run.outputs, again.outputs)
    assert module.config.to_dict() == config and [len(m._forward_hooks) for m in module.modules()] == hooks


def test_an_object_keeps_its_mode_and_is_never_moved_or_cast():
    module, processor = tiny.build("clip")
    module.train()
    model = cutaway.load(module, processor=processor, dtype="float32", device="cpu", attn="sdpa")  # as it is
    assert model.module is module and all(part.training for part in module.modules())
    for asked in ({"dtype": "float64"}, {"device": "meta"}, {"attn": "eager"}, {"device_map": "auto"}):
        with pytest.raises(LoadError, match=rf"`{next(iter(asked))}=.*would change.*before you pass it"):
            cutaway.load(module, processor=processor, **asked)
    assert model.dtype == torch.float32 and model.device.type == "cpu"


def test_dtype_and_attention_kernel_are_as_asked():
    assert cutaway.load("tiny:llama", dtype="bfloat16").dtype == torch.bfloat16
    assert cutaway.load("tiny:llama", attn="eager").module.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tiny:clip", {"dtype": "int8"}, ["'int8'", "Available: float32", "quantised"]),
        ("tiny:clip", {"dtype": torch.int64}, ["'int64'", "Available: float32"]),
        ("tiny:clip", {"device": "cuda:99"}, ["no device 'cuda:99'", "Available: cpu", "leave `device` out"]),
        ("tiny:clip", {"device": "gpu"}, ["no device 'gpu'", "Available: cpu"]),
        ("tiny:clip", {"attn": "frob"}, ["frob", "sdpa or eager"]),
        ("tiny:clip", {"revision": "no-such"}, ["`revision=no-such`", "with the package", "dtype, device, attn"]),
        ("zoo:emoji-clip", {"device_map": "auto"}, ["`device_map=auto`", "with the package", "leave `device_map` out"]),
        ("tiny:clip", {"trust_remote_code": True}, ["`trust_remote_code=True`", "with the package"]),
        ("a/b", {"device": "cpu", "device_map": "auto"}, ["`device=cpu`", "one of the two", "leave one of them out"]),
        ("zoo:emoji-clip@nothing", {}, ["'nothing'", "@untrained"]),
        ("tiny:clip@untrained", {}, ["no `@untrained`"]),
        ("zoo:emojiclip", {}, ["emoji-clip", "cutaway zoo list"]),
        ("emoji-clip", {}, ["Available: zoo:emoji-clip"]),
        ("clip", {}, ["Available: tiny:clip"]),
        ("a b/c", {}, ["could not be read", "check the name"]),
    ],
)
def test_a_wrong_name_or_option_says_what_there_is(name, options, words):
    with pytest.raises(cutaway.errors.LoadError) as caught:
        cutaway.load(name, **options)
    assert caught.value.expected and caught.value.do
    assert all(word.lower() in str(caught.value).lower() for word in words), str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_paragraph(monkeypatch):
    import huggingface_hub

    class NoConnection(load.HTTPError):
        pass

    def unreachable(*_, **__):
        raise NoConnection("Name or service not known\nand 120 lines more")

    monkeypatch.setattr(huggingface_hub, "file_exists", unreachable)
    with pytest.raises(cutaway.errors.LoadError) as caught:
        cutaway.load("nobody/nothing")
    said = str(caught.value)
    assert "'nobody/nothing' could not be read (Name or service not known)" in said and "\n" not in said
    assert "without a connection" in said and "download it once" in said


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of tiny models, written once."""
    return {name: tiny.save(name, tmp_path_factory.mktemp(name)) for name in ("clip", "llama", "vit", "whisper")}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("clip", "tokenizer.json"), ("clip", "tokenizer_config.json"), ("clip", "processor_config.json"),
        ("llama", "tokenizer.json"), ("vit", "preprocessor_config.json"), ("whisper", "processor_config.json"),
    ],
)  # fmt: skip
def test_a_damaged_processor_names_its_file(name, file, saved, tmp_path):
    folder = shutil.copytree(saved[name], tmp_path / "torn")
    text = (folder / file).read_text()
    (folder / file).write_text(text[: len(text) // 2])
    with pytest.raises(cutaway.errors.LoadError) as caught:
        cutaway.load(folder)
    assert f"the file {file} of" in caught.value.failed and "processor=" in caught.value.do
    assert cutaway.load(folder, processor=tiny.build(name)[1]).processor is not None


@pytest.mark.parametrize("name", ["clip", "llama", "vit", "whisper"])
def test_a_model_without_a_processor_opens_without_one(name, saved, tmp_path):
    """The library makes up a tokenizer without words for some classes, which would read any text as nothing."""
    for file in saved[name].iterdir():
        if "token" not in file.name and "process" not in file.name:
            shutil.copy(file, tmp_path)
    assert cutaway.load(tmp_path).processor is None
    if (saved[name] / "processor_config.json").exists():
        shutil.copy(saved[name] / "processor_config.json", tmp_path)
        tools = cutaway.load(tmp_path).engine.tools
        assert tools.tokenizer is None and (tools.images or tools.sounds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "frob"}, ["cannot be opened", "frob"]),
        ({"num_hidden_layers": 5}, ["no weights for", "would stay random"]),
        ({"intermediate_size": 48}, ["cannot be opened", "belong together"]),
    ],
)
def test_a_config_that_does_not_belong_to_the_weights_is_refused(change, words, saved, tmp_path):
    folder = shutil.copytree(saved["vit"], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(cutaway.errors.LoadError) as caught:
        cutaway.load(folder)
    assert all(word in str(caught.value) for word in words)


def test_half_precision_models_are_read_and_written():
    model = cutaway.load("tiny:llava", dtype="float16")
    inputs = model.inputs(image=tiny.picture(), text="a dog")
    run = model.run(inputs, record="text.*.attn.*")
    assert {t.dtype for t in run.activations.values()} == {torch.float16}
    same = model.run(inputs, edits=cutaway.Patch("text.1.attn.z", run))
    assert torch.equal(same.logits, run.logits)


def test_bfloat16_activations_are_labelled_as_float32():
    model = cutaway.load("tiny:llama", dtype="float32")
    run = model.run(model.inputs(text="a dog"), record="text.1.attn.z", dtype=torch.bfloat16)
    assert run["text.1.attn.z"].dtype == torch.bfloat16
    assert run.labelled("text.1.attn.z").dtype == "float32"


def test_flash_attention_is_refused_for_what_is_inside_it_with_a_way_out():
    model = cutaway.load("tiny:llama")
    module = model.towers["text"].blocks[1].self_attn
    plain = module.config
    module.config = type(plain)(**plain.to_dict())
    module.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(cutaway.errors.SiteError, match="attn='sdpa'"):
        model.run(model.inputs(text="a dog"), record="text.1.attn.pattern")
    module.config = plain


def test_a_row_that_does_not_fit_names_itself_the_path_and_what_exists():
    module, processor = tiny.build("clip")
    block = module.vision_model.encoder.layers[1]
    block.norm_two = block.layer_norm2
    del block.layer_norm2
    with pytest.raises(cutaway.errors.LoadError) as caught:
        cutaway.load(module, processor=processor)
    text = str(caught.value)
    assert "CLIPEncoderLayer" in text and "layer_norm2" in text and "layer_norm1" in text
