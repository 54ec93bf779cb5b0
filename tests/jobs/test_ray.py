"""Jobs on Ray: the tests of `on_ray.py`, in a process of their own, so that Ray is started once and seen to end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_jobs_on_a_ray_of_two_workers():
    pytest.importorskip("ray")
    here = Path(__file__).parent
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RAY_"))}
    paths = [str(here), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]  # for workers as well
    alone |= {"RAY_worker_niceness": "0"}  # by itself Ray has workers wait for all else that runs on the machine
    alone |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", str(here / "on_ray.py")]
    told = subprocess.run(command, capture_output=True, text=True, env=alone, check=False, timeout=300)
    assert told.returncode == 0 and " passed" in told.stdout, told.stdout[-6000:] + told.stderr[-2000:]
