"""What tests of methods on drawings share: a tiny pipeline, and two drawings whose prompts differ in one word each."""

import pytest

import cutaway
from world import OTHER, OWN


@pytest.fixture(scope="package")
def sd() -> cutaway.Model:
    return cutaway.load("tiny:sd", dtype="float64")


@pytest.fixture(scope="package")
def both(sd):
    return [sd.inputs(prompt=some, seed=3, steps=2) for some in (OWN, OTHER)]
