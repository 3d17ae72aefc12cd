from __future__ import annotations

from pathlib import Path

import yaml


def test_the_cluster_file_passes_the_launchers_own_validation() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (Path(__file__).parents[1] / "ray_cluster.yaml").read_text()
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert {"head", "gpu_worker", "cpu_worker"} <= set(config["available_node_types"])
    assert "AKIA" not in text


def test_every_node_asks_for_the_token_and_has_it() -> None:
    config = yaml.safe_load((Path(__file__).parents[1] / "ray_cluster.yaml").read_text())
    for group in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[group] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
