"""Noise schedules, solvers, guidance and per-sample noise."""
