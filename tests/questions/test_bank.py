"""Banks of texts: from lists, files and EmojiWorld, embedded by the model's own text tower."""

import pytest
import torch

from cutaway import data
from cutaway.errors import MethodError, SiteError
from cutaway.methods.representation_decomposition import representation_decomposition
from cutaway.questions.bank import TOPICS, emoji_bank, emoji_phrases, file_bank, text_bank
from cutaway.questions.rows import embedded, feed, tracked
from cutaway.zoo import emoji_clip
from world import gap, opened


def test_texts_are_embedded_as_the_model_embeds_them():
    model, texts = opened("clip"), ["a red dog", "a cat on the left of a big dog", "two birds"]
    bank = text_bank(model, texts, batch=2, progress=False)
    with torch.no_grad():
        own = torch.cat([model.module.get_text_features(**model.inputs(text=t).tensors).pooler_output for t in texts])
    assert bank.texts == tuple(texts) and gap(bank.embeddings, own) < 1e-12
    assert gap(bank.directions(centre=False).norm(dim=1), torch.ones(3)) < 1e-12
    assert gap(embedded(opened("siglip"), texts, "text", progress=False).norm(dim=1), torch.zeros(3)) > 0.1


CAPTIONS = ["a red dog", "a blue cat left of a green car"]


def padded(name: str, side: str, length: int):
    model = opened(name)
    made = model.tokenizer(CAPTIONS, return_tensors="pt", padding="max_length", max_length=length, padding_side=side)
    return model.inputs(**{key: made[key] for key in ("input_ids", "attention_mask") if key in made})


@pytest.mark.parametrize(
    ("name", "side", "length"), [("clip", "right", 10), ("clip", "right", 14), ("siglip", "right", 16),
                                 ("siglip", "left", 16)]
)  # fmt: skip
def test_captions_in_a_padded_batch_are_read_where_the_model_reads_them(name, side, length):
    model, inputs = opened(name), padded(name, side, length)
    with torch.no_grad():
        own = model.module.get_text_features(**inputs.tensors).pooler_output
    parts = representation_decomposition(model, inputs, tower="text", progress=False)
    assert gap(embedded(model, inputs, "text", progress=False), own) < 1e-12
    assert gap(torch.from_numpy(parts["embedding"].values), own) < 1e-12 and float(parts["error"].max()) < 1e-10
    if side == "right":
        alone = [representation_decomposition(model, [text], tower="text", progress=False) for text in CAPTIONS]
        for row, one in enumerate(alone):
            assert abs(parts["heads"].values[row] - one["heads"].values[0]).max() < 1e-10


def test_a_caption_of_which_the_padding_is_read_is_refused():
    """Padded on the left with the id of the end, a CLIP gives the same vector for every caption."""
    model, inputs = opened("clip"), padded("clip", "left", 12)
    with torch.no_grad():
        own = model.module.get_text_features(**inputs.tensors).pooler_output
    assert gap(own[0], own[1]) < 1e-12
    for read in (embedded, representation_decomposition):
        with pytest.raises(SiteError, match=r"reads row 0 .* at position 0, which is padding.*padding_side"):
            read(model, inputs, tower="text", progress=False)


def test_a_text_counts_once_and_topics_select():
    bank = text_bank(opened("clip"), ["a dog", "a cat", "a dog", " "], ["one", "two", "three", "four"], progress=False)
    assert bank.texts == ("a dog", "a cat") and bank.topics == ("one", "two") and len(bank) == 2
    assert gap(bank.about("two").embeddings, bank.embeddings[1:]) == 0
    with pytest.raises(MethodError, match=r"No text is about three.*one, two"):
        bank.about("three")


def test_a_file_has_one_text_a_line(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# pets\na dog\n\n  a cat  \na dog\n", encoding="utf-8")
    assert file_bank(opened("clip"), path, progress=False).texts == ("a dog", "a cat")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark is no part of the first text
    assert file_bank(opened("clip"), path, progress=False).texts == ("a dog", "a cat")
    path.write_bytes("ein Bär\nein Hund".encode("latin-1"))
    with pytest.raises(MethodError, match="not UTF-8"):
        file_bank(opened("clip"), path, progress=False)
    with pytest.raises(MethodError, match="No file at"):
        file_bank(opened("clip"), tmp_path / "none.txt", progress=False)
    path.write_text("a dog")
    with pytest.raises(MethodError, match="fewer than two texts"):
        file_bank(opened("clip"), path, progress=False)


def test_emojiworld_is_spoken_of_in_words_its_model_knows():
    phrases = emoji_phrases()
    assert tuple(phrases) == TOPICS and len(phrases["concept"]) == len(data.concepts())
    assert "in the top left" in phrases["place"] and "on a blue background" in phrases["background"]
    tokenizer = emoji_clip.tokenizer()
    said = {token for texts in phrases.values() for ids in tokenizer(texts)["input_ids"] for token in ids}
    assert tokenizer.unk_token_id not in said
    bank = emoji_bank(opened("clip"), ("place", "artist"), limit=4, progress=False)
    assert bank.topics.count("place") == 3 and bank.topics.count("artist") == 3
    with pytest.raises(MethodError, match=r"No topic 'colour'.*concept"):
        emoji_phrases(("colour",))


def test_models_without_texts_and_rows_that_are_none_are_refused():
    with pytest.raises(MethodError, match=r"no text tower.*contrastive.*vision"):
        text_bank(opened("vit"), ["a dog", "a cat"])
    with pytest.raises(MethodError, match="do not fit"):
        text_bank(opened("clip"), ["a dog", "a cat"], ["one"])
    with pytest.raises(MethodError, match="No tower 'audio'"):
        list(feed(opened("clip"), ["x"], "audio"))


def test_scenes_pictures_and_ready_inputs_are_all_fed():
    model, scene = opened("clip"), data.scene_at("test", 0)
    one, other = (embedded(model, rows, "vision") for rows in ([scene], [data.render(scene)]))
    ready = model.inputs(image=[data.render(scene)])
    assert gap(one, other) == 0 and gap(one, embedded(model, ready, "vision")) == 0
    assert [len(part.pictures) for part in feed(model, [scene] * 5, "vision", batch=2)] == [2, 2, 1]


def test_progress_is_silent_where_nobody_looks(capsys):
    assert list(tracked(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
