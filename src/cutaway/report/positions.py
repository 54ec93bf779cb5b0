"""What each position of a model is, for files and words from the command line: `cutaway tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from rich.console import Console

from cutaway.errors import InputError
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.given import read_picture, unknown_words
from cutaway.report.tables import print_recording, print_tokens
from cutaway.source import Source
from cutaway.views.words import quoted


def show_tokens(
    name: Source | str, image: Path | None, text: str | None, audio: Path | None, prompt: str | None,
    console: Console | None = None, *, raw: bool = False,
) -> None:  # fmt: skip
    """Print the token maps, words the model does not know, and how much memory a recording of everything takes."""
    console = console or Console(emoji=False)
    picture = None if image is None else read_picture(image)
    sound, rate = (None, 0) if audio is None else read_sound(audio)
    model = load(name)
    if sound is not None or "audio" in model.towers:
        _check_sound(model, audio, rate)
    alone = text is not None and picture is None and sound is None and not raw
    said = model.chat(text) if text is not None and alone else text
    inputs = model.inputs(image=picture, text=said, audio=sound, prompt=prompt)
    print_tokens(inputs, console)
    unknown = unknown_words(model, [said for said in (text, prompt) if said])
    if unknown:
        console.print(
            f"This model has no entry for {', '.join(map(quoted, unknown))} and reads any such word as the same blank.",
            markup=False, highlight=False,
        )  # fmt: skip
    print_recording(model, inputs, console)


def read_sound(path: Path) -> tuple[ndarray, int]:
    """The samples of a WAV file, one channel, between -1 and 1, and how many there are in a second."""
    from scipy.io import wavfile

    if not path.is_file():
        raise InputError(f"no sound at '{path}'", expected="the path of a WAV file", do="check the path")
    try:
        rate, samples = wavfile.read(path)
    except ValueError as error:
        raise InputError(
            f"'{path.name}' cannot be read as a sound ({error})", expected="a WAV file",
            do="convert it, for instance `ffmpeg -i sound.mp3 -ac 1 -ar 16000 sound.wav`",
        ) from error  # fmt: skip
    if samples.ndim > 1:
        raise InputError(
            f"'{path.name}' has {samples.shape[1]} channels", expected="one channel",
            do=f"mix them, for instance `ffmpeg -i {path.name} -ac 1 mono.wav`",
        )  # fmt: skip
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128, int(rate)
    scale = 1 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    return (samples / scale).astype(np.float32), int(rate)


def _check_sound(model: Model, audio: Path | None, rate: int) -> None:
    """Refuse a sound where none is heard, none where one is, and one at another rate than the model's."""
    tool: Any = model.engine.tools.sounds
    wanted = getattr(tool, "sampling_rate", 0)
    if "audio" not in model.towers:
        raise InputError(
            f"'{model.name}' hears nothing", expected="a model with an audio tower, such as `tiny:whisper`",
            exists=f"the towers {', '.join(model.towers) or 'none'}", do="leave --audio out",
        )  # fmt: skip
    if audio is None:
        raise InputError(
            f"'{model.name}' writes down what it hears, and there is no sound",
            expected=f"--audio FILE.wav, {wanted} samples a second; --text is then what was written so far",
            do="give a sound",
        )
    if wanted and rate != wanted:
        raise InputError(
            f"'{audio.name}' has {rate} samples a second", expected=f"{wanted}, the rate of '{model.name}'",
            do=f"convert it, for instance `ffmpeg -i {audio.name} -ar {wanted} other.wav`",
        )  # fmt: skip
