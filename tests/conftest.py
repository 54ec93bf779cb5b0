"""Set-up for every test: shapes and types checked at run time, no network, one thread."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ["MPLBACKEND"] = "Agg"
# Read when torch is first imported. The models are so small that threads mostly wait for one another: on a busy
# machine two are thirty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Continuous integration tries the same examples each time; elsewhere hypothesis draws new ones, and keeps what fails.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Must run before anything imports cutaway, and stays for the session: every annotated call in the package is checked.
# An int passes for a float, as it does for mypy.
CHECKED_TYPES = install_import_hook("cutaway", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
