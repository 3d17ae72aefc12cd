"""Numeric tolerances of the tests, each with its reason.

A relative tolerance compares the largest absolute difference with the largest absolute
value of the reference array.
"""

from __future__ import annotations

# Scores against torch-fidelity on the same features: it sums means in float32 and takes the
# general eigenvalues of an unsymmetric product; measured differences reach 4e-7.
TORCH_FIDELITY_REL = 1e-5
# One score against the same numbers summed in another order or in other blocks, in float64.
MERGED_REL = 1e-9
