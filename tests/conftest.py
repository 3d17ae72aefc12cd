from __future__ import annotations

import os

# Tests never send usage data, never ask for tokens, and bind Ray to loopback alone
# (the address by itself is rewritten unless the second variable is set).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Tiny networks gain nothing from a second thread, and on a busy machine the threads of several
# processes wait for each other: tests of heads were ten times slower there.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.ray_nodes", "tests.stores", "tests.worlds"]
