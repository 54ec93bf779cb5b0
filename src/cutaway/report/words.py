"""The words of a report: how texts are called, what is explained, and what reads a picture tower at its end."""

from __future__ import annotations

from cutaway.report.battery import Battery, Measured

LONG = 24  # letters; longer texts go by A and B


class signed(float):  # noqa: N801
    """A number that a sentence writes with a true minus sign; what a user wrote stays as it was written."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec).replace("-", "−")


def quoted(text: str) -> str:
    """A text in quotation marks."""
    return f"“{text}”"


def lettered(found: Battery) -> bool:
    """Whether texts go by letters, because two long ones would bury every sentence."""
    return len(found.case.texts) > 1 and max(map(len, found.case.texts[:2])) > LONG


def letter(found: Battery, index: int) -> str:
    """The letter that a text goes by, "" where texts are quoted."""
    return chr(ord("A") + index) if lettered(found) and index < 26 else ""


def name(found: Battery, index: int) -> str:
    """A text in a sentence: quoted, or its letter."""
    return letter(found, index) or quoted(found.case.texts[index])


def labels(found: Battery) -> tuple[str, ...]:
    """The texts as labels of maps, with their letters."""
    return tuple(
        f"{letter(found, index)}: {text}" if letter(found, index) else text
        for index, text in enumerate(found.case.texts)
    )


def aim(found: Battery) -> str:
    """What is explained, in words."""
    return name(found, 0) if len(found.case.texts) == 1 else f"{name(found, 0)} rather than {name(found, 1)}"


def number(found: Battery) -> str:
    """The name of the number that is explained."""
    return "the cosine with it" if len(found.case.texts) == 1 else "the difference of the two cosines"


def reads(own: Measured) -> str:
    """How the reader comes to what the patches add, as the start of a sentence."""
    if own.all_read:
        return "The pooling head gets from the patches, through the attention of all layers,"
    return f"The {own.reader} gathers from the patches, through its attention,"


def alone(own: Measured) -> str:
    """How one patch is read in a lens."""
    return "as if it were alone" if own.all_read else f"as if it were the {own.reader}"


def onward(own: Measured) -> str:
    """What is read at the end in truth."""
    return "all patches together go" if own.all_read else f"only the {own.reader} goes"
