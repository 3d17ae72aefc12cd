"""Read pickles into plain values, within limits.

A pickle is a program for a small stack machine. This one knows the instructions that make
plain values (None, bool, int, float, str, bytes, tuple, list, dict, set) and answers every
other with a :class:`Record` of what was asked for. Whoever reads a format gives the few
records it knows a meaning, from their plain arguments; no object of a library ever exists
that a file described.

Bytes are checked to be there before anything is made of them, and what a pickle may cost is
bounded by :class:`PickleLimits`: the same pickle always gives the same values or the same error.
"""

from __future__ import annotations

from rdm_batch.formats.pickle_machine import Interpret, Machine
from rdm_batch.formats.pickle_values import PickleLimits


def read_pickle(
    data: bytes,
    limits: PickleLimits,
    interpret: Interpret = lambda record: record,
    start: int = 0,
) -> tuple[object, int]:
    """Read a pickle of any protocol.

    Args:
        data: Bytes with the pickle; what follows its end is left alone.
        limits: What it may cost.
        interpret: Gives what stands in the place of a record: a plain value where it knows
            one, else the record. Called when the record's arguments are complete, before its
            state, items and pairs are. May raise :class:`FormatError`.
        start: The byte it begins at.

    Returns:
        Its value, and the byte after its end.

    Raises:
        FormatError: This is no pickle, a damaged one, or one beyond the limits.
    """
    machine = Machine(data, start, limits, interpret)
    return machine.run(), machine.position
