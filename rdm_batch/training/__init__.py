"""Objectives and training loops, without Ray."""
