"""Sounds as the features of a speech model, and how its decoder begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cutaway.errors import InputError
from cutaway.model.inputs import as_list
from cutaway.model.modality import Asked, Modality
from cutaway.model.pictures import numbers
from cutaway.model.texts import TEXTS, check_length


def _made(asked: Asked) -> dict[str, Tensor]:
    """Features of sounds, and the ids their decoder begins with: the start token, then the text."""
    sounds, texts, extractor = asked.given["audio"], asked.given["text"], asked.need(SOUNDS)
    waves = [_wave(sound, extractor) for sound in sounds]
    made = dict(extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="pt"))
    if len(texts) > 1 and len(sounds) not in (1, len(texts)):
        raise InputError(f"{len(sounds)} sounds and {len(texts)} texts do not pair up", expected="a text a sound")
    if len(texts) > len(sounds) == 1:
        made = {name: value.expand(len(texts), *value.shape[1:]) for name, value in made.items()}
    return made | _begun(asked, max(len(sounds), len(texts)), texts)


def _begun(asked: Asked, rows: int, texts: list[str]) -> dict[str, Tensor]:
    """The decoder's ids, padded behind; a text that brings the start token is not given another."""
    config = asked.module.config
    start = int(config.decoder_start_token_id)
    if not texts:
        return {"decoder_input_ids": torch.full((rows, 1), start)}
    words = asked.need(TEXTS)(texts, add_special_tokens=False)["input_ids"]
    each = [torch.tensor(ids if ids[:1] == [start] else [start, *ids]) for ids in words]
    ids, mask = (
        pad_sequence(part, batch_first=True, padding_value=fill).expand(rows, -1)
        for part, fill in ((each, start), ([torch.ones_like(one) for one in each], 0))
    )
    check_length(ids, getattr(config, "max_target_positions", None), texts)
    return {"decoder_input_ids": ids} | ({"decoder_attention_mask": mask} if not bool(mask.all()) else {})


def _wave(source: Any, extractor: Any) -> np.ndarray:
    """One channel of samples from -1 to 1, not longer than the model hears at once."""
    array = numbers(source)
    if array is None or array.ndim != 1 or len(array) < 2:
        raise InputError(
            f"a sound cannot be {type(source).__name__} of shape {getattr(source, 'shape', '?')}",
            expected="one channel of samples, a 1-D array at the model's sampling rate",
        )
    if array.dtype in (np.int16, np.int32):
        array = array / -float(np.iinfo(array.dtype).min)
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InputError(
            f"a sound cannot hold {array.dtype}" + (" that is not finite" if array.dtype.kind == "f" else ""),
            expected="floats from -1 to 1, or int16 or int32, which are scaled by their range",
        )
    window = getattr(extractor, "n_samples", None)
    if window is not None and len(array) > window:
        rate = extractor.sampling_rate
        raise InputError(
            f"this sound is {len(array) / rate:.1f} s long", expected=f"at most {window / rate:.1f} s, one window",
            do="cut it into a list of sounds; or write all of it down: `model.generate(model.inputs(**features), "
            "return_timestamps=True)`, its `features` from the feature extractor with truncation=False, "
            "padding='longest', return_attention_mask=True",
        )  # fmt: skip
    return array.astype(np.float32)


SOUNDS = Modality("audio", called="sound", tool="sounds", tokens=("frames",), read=as_list, make=_made, texts=True)
