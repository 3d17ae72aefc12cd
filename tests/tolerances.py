"""Numeric tolerances of the tests, each with its reason.

A relative tolerance compares the largest absolute difference with the largest absolute
value of the reference array.
"""

from __future__ import annotations

# Networks against the published code, float32 on CPU: correct variants of the computation
# (thread counts, convolution kernels, memory formats, double precision) stay within 2e-6;
# the tanh approximation of GELU, a typical mistake, shows as 1.3e-4.
NETWORK_REL = 1e-5
# Decoded images given the same latents or codes: the same variants reach 4e-6.
DECODED_REL = 1e-5
# Solver coefficients: the reference mixes float32 and double, which moves them by 4e-8.
SCHEDULE_REL = 1e-6
# Bytes at the end of a chain: truncation turns a difference of 1e-6 into 1 where a value
# sits on a step; measured on up to 0.012 % of the bytes.
CHAIN_BYTES_STEP = 1
CHAIN_BYTES_FRACTION = 1e-3
# One way of computing a network against another within this package (guidance branches
# together or apart, cached or recomputed): reordered float32 sums, as NETWORK_REL.
REORDERED_REL = 1e-5
# Logits of random weights with factors of products in bfloat16, 8 bits of mantissa, beside exact
# products of the same weights: PyTorch's reach 1.5e-2, those of the kernel of tokens 1e-2.
ROUNDED_REL = 2e-2

# Scores against torch-fidelity on the same features: it sums means in float32 and takes the
# general eigenvalues of an unsymmetric product; measured differences reach 4e-7.
TORCH_FIDELITY_REL = 1e-5
# One score against the same numbers summed in another order or in other blocks, in float64.
MERGED_REL = 1e-9

# Cosines computed in double and rounded to float32: another order of the double sum can
# move a value across a rounding border, that is, by one last place (2^-23 relative).
COSINE_REL = 2**-23

# Antialiased bicubic by torch and by Pillow, on the scale of bytes: both sum float32 products of
# weights that they compute in different precision.
RESIZE_ABS = 1e-2

# Part of a figure's width by which a point of the map may be misplaced: a pixel of a large screen.
MAP_REL = 1e-3
