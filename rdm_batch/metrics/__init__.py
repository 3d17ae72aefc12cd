"""Scores, each as accumulate, merge, finalise."""
