"""Models on two devices: the tests of `devices.py`, in a process of their own, in which the second device stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_model_on_two_devices_gives_the_numbers_of_one():
    pytest.importorskip("accelerate")
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",  # types are checked in the tests of one device
        str(Path(__file__).with_name("devices.py")),
    ]
    told = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    assert told.returncode == 0 and " passed" in told.stdout, told.stdout[-4000:] + told.stderr[-2000:]
