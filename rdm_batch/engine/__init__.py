"""Spec to shards, checks before any expensive work, spec to objects, shard to images. No Ray."""
