"""One thread for the model: it is tiny, or the machine is busy, and threads that wait for each other cost more."""

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:  # all test modules are imported by now; without torch none needs it
        sys.modules["torch"].set_num_threads(1)
