"""What a question may lack, in words, and how it is given."""

from __future__ import annotations

# What a question may lack: what it is, and how it is given, on the command line and in Python.
LACKS = {
    "pictures": ("a picture", "--image FILE (`image=`)"),
    "whole": ("one picture that the model is given as a whole, not in pieces", "--image FILE (`image=`)"),
    "beside": ("a text beside the picture", "--text TEXT (`text=`)"),
    "inputs": ("a picture, a text or a prompt to run on", "--image FILE, --text TEXT or --prompt TEXT"),
    "from_words": ("a picture, a text or a prompt to run on", "--image FILE, --text TEXT or --prompt TEXT"),
    "target": ("a number to explain", "--text TEXT or --prompt TEXT"),
    "texts": ("texts in the space of the pictures, which a model that matches has (CLIP, SigLIP)", "--text TEXT"),
    "counterpart": ("a second input that differs in one thing", "--counterfactual FILE, or a text or prompt"),
    "along": ("a second input that differs in one thing", "--counterfactual FILE, or a text or prompt"),
    "crowd": ("many pictures", "--pictures FOLDER (`pictures=`)"),
    "among": ("many pictures", "--pictures FOLDER (`pictures=`)"),
    "scenes": ("many scenes of EmojiWorld, whose masks are exact", "--pictures emojiworld (`pictures=`)"),
    "bank": ("a bank of texts to explain in", "--bank FILE, one text a line (`bank=`)"),
    "contexts": ("texts in whose words states are found", "--bank FILE, one text a line (`bank=`)"),
    "floor": ("the model before training, which the models of the zoo have", "a model of `cutaway zoo list`"),
    "rows": ("many pictures, or drawings", "--pictures FOLDER (`pictures=`)"),
    "labels": ("what is known of each picture", "--label NAME, or --pictures FOLDER with a folder for each class"),
    "looks": ("a tower that looks at pictures, or a denoiser", "open a model that has one"),
    "space": ("a picture tower that ends in the space of texts, as CLIP and SigLIP have", "open zoo:emoji-clip, say"),
    "end": ("a picture tower whose end the model gives out, as CLIP and DINOv2 do", "open zoo:emoji-clip, say"),
    "others": ("other inputs whose answers should stay, of a model that matches or answers", "--pictures FOLDER"),
    "opposed": ("many pictures whose number differs, of a model that matches or answers", "--pictures FOLDER"),
    "drawing": ("a prompt to draw, for a model that draws", "--prompt TEXT"),
    "tasks": ("tasks told by examples, as prompts", "open zoo:emoji-llava, or `told=` in Python"),
    "training": ("items that it may have learnt from", "open a model of `cutaway zoo list`, or `learnt=` in Python"),
    "streams": (
        "towers whose blocks add to one stream, as transformers have",
        "open zoo:emoji-clip, say, or for drawings zoo:emoji-mmdit: a UNet has none",
    ),
    "dictionary": ("a dictionary of features", "--dictionary DIR (`model.with_dictionaries(…)`)"),
    "voice": ("a model that writes, such as a LLaVA or a language model", "open zoo:emoji-llava, say"),
}  # fmt: skip


def lacking(part: str) -> str:
    """What a part is and how it is given, for whoever lacks it."""
    what, how = LACKS[part]
    return f"it needs {what}: {how}"
