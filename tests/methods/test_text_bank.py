"""Banks of texts: from lists, files and EmojiWorld, embedded by the model's own text tower."""

import pytest
import torch

from cutaway import data
from cutaway.methods.feed import embedded, feed, tracked
from cutaway.methods.result import MethodError
from cutaway.methods.text_bank import TOPICS, emoji_bank, emoji_phrases, file_bank, text_bank
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
