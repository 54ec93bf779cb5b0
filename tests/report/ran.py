"""What the code of the views on a page prints, as a reader of the page would run it."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from cutaway.report.explain import Explained
from cutaway.views.kinds import View


def printed(made: Explained, without: str = "nothing") -> Iterator[tuple[View, str]]:
    """Every view and what its code prints, but for those of a call with a word: what views share is run once for all.

    Views of one result have the same lines up to the call that made it; behind it come their own.
    """
    calls = [f"found = {one.call}\n" for one in made.shown.applied.values()]
    spaces: dict[str, dict[str, Any]] = {}
    for view in made.views:
        call = min((one for one in calls if one in view.code), key=view.code.index)
        if without in call:
            continue
        before, _, own = view.code.partition(call)
        lines = before.splitlines()
        if call in spaces:
            lines = [line for line in lines if line.startswith(("import ", "from "))]
        else:
            spaces[call] = {}
            lines.append(call)
        exec(compile("\n".join(lines), "the call", "exec"), spaces[call])  # noqa: S102, the page shows it to be run
        with redirect_stdout(StringIO()) as said:
            exec(compile(own, "a view", "exec"), dict(spaces[call]))  # noqa: S102, a second call has its own `found`
        yield view, said.getvalue()
