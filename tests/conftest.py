from __future__ import annotations

import os

import pytest

# Tests never send usage data, never ask for tokens, and bind Ray to loopback alone
# (the address by itself is rewritten unless the second variable is set).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Tiny networks gain nothing from a second thread, and on a busy machine the threads of several
# processes wait for each other: tests of heads were ten times slower there.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.ray_nodes", "tests.stores", "tests.worlds"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, and those that start a Ray, when several processes run.

    What a module has made once is used by all its tests; two Rays would share two cores.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
