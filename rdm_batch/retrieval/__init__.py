"""Databases, indexes, exact search, merging, proposal distribution, conditioning."""
