"""Batch generation and benchmarking of retrieval-augmented image generators."""

__version__ = "0.1.0"
