"""Equal content has one digest, also in another process; what differs in anything that counts has another."""

import functools
import operator
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import world
from cutaway import Ablate, Patch, Scale, Where, targets
from cutaway.errors import InputError
from cutaway.model.fingerprint import fingerprint
from world import KNOWN, given, noise, opened

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool,
          torch.complex64)  # fmt: skip
FACTOR, TABLE = 3.0, torch.ones(2)


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


class Plain:
    """An object with state and a method."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, run):
        return run.logits[:, -1, self.at]


def doubled(x):
    return 2 * x


def scaled(x):
    return FACTOR * x + TABLE.sum() + doubled(x)


@pytest.mark.parametrize("name", ["clip", "llava"])
def test_a_model_that_was_saved_and_opened_again_is_the_same(tmp_path, name):
    model = world.fresh(name)
    before = fingerprint(model)
    model.module.save_pretrained(tmp_path)
    assert fingerprint(model) == before
    again = cutaway.load(str(tmp_path), processor=model.processor, dtype="float64")
    assert fingerprint(again) == before


def test_tensors_are_known_by_dtype_shape_and_bytes():
    values = [torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype) for dtype in DTYPES]
    values += [values[0].T, values[0].reshape(-1), values[0][:, :2], torch.zeros(0), torch.tensor(1.0)]
    assert len({fingerprint(value) for value in values}) == len(values)
    for value in values:
        assert fingerprint(value) == fingerprint(value.clone().contiguous())
    assert fingerprint(noise(4, 4).T) == fingerprint(noise(4, 4).T.contiguous())
    assert fingerprint(torch.eye(3).to_sparse()) == fingerprint(torch.eye(3).to_sparse().clone())


SOME = [
    None, True, 1, 1.0, "1", b"1", 1j, (1, 2), [1, 2], {1, 2}, {"a": 1}, {"a": 2}, slice(1, 2), range(3), Path("a"),
    np.arange(3), np.arange(3.0), np.array(["a", None], object), np.float32(1), Colour.RED, Colour.BLUE,
    Pair(1, 2), Pair(2, 1), Pair(1, Pair(1, 2)), Plain(1), Plain(2), Plain(1).__call__, Where("text"),
    Where("image", row=1), torch.float16, torch.device("cpu"), functools.partial(doubled, 3),
    functools.partial(doubled, 4), operator.itemgetter(1), torch.sum, doubled, scaled, Plain, Pair, len, [].append,
    Ablate("text.0.mlp.out"), Ablate("text.0.mlp.out", token=1), Ablate("text.1.mlp.out"), Scale("text.0.mlp.out", 0),
    Patch("text.0.mlp.out", noise(2, 3)), Patch("text.0.mlp.out", noise(2, 3, seed=1)), targets.logit("dog"),
    targets.logit("cat"), targets.log_prob("dog"), targets.distance(noise(9, 9)), targets.distance(noise(9, 9, seed=1)),
]  # fmt: skip


def test_no_two_values_share_a_digest():
    assert len({fingerprint(value) for value in SOME}) == len(SOME)
    assert fingerprint(1, 2) != fingerprint((1, 2)) != fingerprint([1], [2])
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_order_counts_where_it_means_something():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_equal_values_share_a_digest_whether_they_are_one_object_or_two():
    one = noise(3)
    assert fingerprint([one, one]) == fingerprint([one, one.clone()])
    assert fingerprint(Pair(one, [1, one])) == fingerprint(Pair(one.clone(), [1, one.clone()]))


def test_another_process_finds_the_same():
    """Addresses, the order of sets and what was imported before differ there."""
    text = (
        "import torch\n"
        "from cutaway.model.edits import Patch, Scale\n"
        "from cutaway.model.fingerprint import fingerprint\n"
        "from cutaway.model.targets import Target, distance\n"
        "names, x = {'red', 'green', 'blue', (1, 2)}, torch.arange(6.0)\n"
        "class own(Target):\n"
        "    def __call__(self, run): return run.logits[:, len(names & {'red', 'blue', 'cyan'})] * x.sum()\n"
        "found = fingerprint(names, distance(x), own(), lambda run: x + own, torch.nn.Linear(2, 2)._forward_hooks,\n"
        "                    Patch('text.0.mlp.out', x, token=1), [Scale('text.0.mlp.out', 0.0)] * 2, torch.no_grad)\n"
    )
    place = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", f"__name__ = 'someone'\n{text}print(found)"]
    there = subprocess.run(call, env=place, capture_output=True, text=True, check=False)
    assert there.returncode == 0, there.stderr
    assert there.stdout.strip() == compiled(text)["found"]


# --- functions --------------------------------------------------------------------------------------------------------


def made(at: int, weights=TABLE, extra: object = None):
    """A function with two values it closes over, and one it has as a default."""
    return lambda run, more=extra: (run.logits[:, -1, at] * weights.sum(), more)


def test_a_function_is_known_by_what_it_computes_with():
    assert fingerprint(made(1)) == fingerprint(made(1, TABLE.clone()))
    others = [made(1), made(2), made(1, noise(2)), made(1, extra=2), lambda run: run.logits[:, -1, 1], Plain(1), scaled]
    assert len({fingerprint(other) for other in others}) == len(others)


def test_the_globals_of_a_function_and_of_those_it_calls_count(monkeypatch):
    before = fingerprint(scaled)
    for name, value in (("FACTOR", 4.0), ("TABLE", torch.zeros(2)), ("doubled", lambda x: 3 * x)):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[__name__], name, value)
            assert fingerprint(scaled) != before
    assert fingerprint(scaled) == before


def compiled(text: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "someone", "Target": targets.Target}
    exec(compile(text, "somewhere.py", "exec"), names)  # noqa: S102, the text is this test's own
    return names


def test_lines_and_comments_do_not_count_and_code_does():
    text = "class own(Target):\n    def __call__(self, run):\n        return run.logits.mean((1, 2))\n"
    first, moved, other = (compiled(t)["own"]() for t in (text, "\n\n# more\n" + text, text.replace("mean", "sum")))
    assert fingerprint(first) == fingerprint(moved) != fingerprint(other)


def test_a_function_that_calls_itself_has_a_digest():
    def down(n):
        return down(n - 1) if n else 0

    def up(n):
        return up(n + 1) if n else 0

    assert fingerprint(down) == fingerprint(down) != fingerprint(up)


@pytest.mark.parametrize("what", [threading.Lock(), (x for x in ()), torch.ones(2, device="meta")])
def test_what_has_no_content_is_refused(what):
    for value in (what, [1, what], lambda: what, Pair(1, what), Plain(what)):
        with pytest.raises(InputError, match=r"content is known.*none that can be read.*leave `resume=` out"):
            fingerprint(value)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("sdxl", "sd3")])
def test_a_model_is_its_weights_and_stays_itself_when_it_runs(name):
    opened(name).run(given(name), **world.drawn(opened(name)))
    model = world.fresh(name)
    before = fingerprint(model)
    assert fingerprint(opened(name)) == before
    weight = next(parameter for root in model.engine.roots.values() for parameter in root.parameters())
    with torch.no_grad():
        weight.view(-1)[-1] += 0.5
    assert fingerprint(model) != before


def test_all_of_a_model_that_changes_its_numbers_counts():
    def changed(change, **options) -> str:
        model = cutaway.load("tiny:llama", **options)
        change(model.module)
        return fingerprint(model)

    def attended(module):
        module.set_attn_implementation("eager")

    def hooked(module):
        module.lm_head.register_forward_hook(lambda module, args, output: output * 2)

    def own_forward(module):
        module.lm_head.forward = lambda x: x[..., :5]

    def swapped(module):
        module.model.layers[0].mlp.act_fn = nn.ReLU()

    changes = [lambda module: None, attended, hooked, own_forward, swapped, lambda module: module.train(),
               lambda module: module.model.norm.__setattr__("variance_epsilon", 0.1),
               lambda module: module.model.layers[1].self_attn.__setattr__("scaling", 0.1),
               lambda module: module.config.__setattr__("rms_norm_eps", 5.0)]  # fmt: skip
    found = [changed(change) for change in changes]
    found += [changed(changes[0], dtype=dtype) for dtype in ("float64", "bfloat16", "float16")]
    assert len(set(found)) == len(found) and changed(changes[0]) == found[0]


def test_where_a_model_was_found_does_not_count(tmp_path):
    from cutaway.zoo import tiny

    folders = [tiny.save("clip", tmp_path / name) for name in ("one", "two")]
    assert len({fingerprint(cutaway.load(str(folder))) for folder in folders}) == 1


def test_one_number_of_an_expanded_tensor_is_known():
    """What `expand` gives has no step in memory; nor has a single number of it."""
    wide = torch.tensor([2.0]).expand(5)
    assert fingerprint(wide) == fingerprint(torch.full((5,), 2.0))
    assert fingerprint(wide[:1]) == fingerprint(torch.tensor([2.0]))
