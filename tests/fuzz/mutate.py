"""Change real inputs: bits, lengths, blocks, numbers in text, parts of other inputs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from tests.fuzz.target import Target

MAX_INPUT_BYTES = 1 << 20
_MAX_KEPT = 400
_NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF)
_MORE_NUMBERS = (2**31, 2**32 - 1, 2**32, 2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_TEXT_NUMBERS = (
    *(b"0", b"-1", b"1", b"0.5", b"1e309", b"NaN", b"-0", b"00", b"true", b"null", b'""', b"[]"),
    *(b"2147483648", b"4294967296", b"9223372036854775807", b"99999999999999999999", b"9" * 5_000),
)
_DIGITS = re.compile(rb"-?\d+")


class Mutator:
    """Make inputs for a target, each from the seed and its number alone but for what was kept.

    Args:
        target: What reads them.
        seed: Of the campaign.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._inputs = [bytes(data) for data in target.corpus()]
        self._own = len(self._inputs)
        assert self._inputs, f"{target.name} has no corpus"

    def make(self, number: int) -> bytes:
        """Make the input of a number; the first ones are the corpus as it is."""
        if number < self._own:
            return self._inputs[number]
        rng = random.Random(f"{self._seed}/{self._target.name}/{number}")
        if self._target.generate is not None and rng.random() < 0.4:
            data = self._target.generate(rng)
            if rng.random() < 0.7:
                return data[:MAX_INPUT_BYTES]
        else:
            data = rng.choice(self._inputs)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
            data = rng.choice(_MUTATIONS)(data, rng, self._inputs, self._target.tokens)
        return data[:MAX_INPUT_BYTES]

    def keep(self, data: bytes) -> None:
        """Start from an input, too, because the target answered it as it had answered none."""
        if len(self._inputs) < _MAX_KEPT:
            self._inputs.append(data)
        else:
            rng = random.Random(len(data))
            self._inputs[rng.randrange(self._own, _MAX_KEPT)] = data


Mutation = Callable[[bytes, random.Random, Sequence[bytes], Sequence[bytes]], bytes]


def _flip(data: bytes, rng: random.Random, *_: object) -> bytes:
    changed = bytearray(data)
    for _index in range(rng.choice((1, 1, 2, 4))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_byte(data: bytes, rng: random.Random, *_: object) -> bytes:
    place = rng.randrange(len(data) + 1)
    return (
        data[:place]
        + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        + (data[place + 1 :])
    )


def _set_number(data: bytes, rng: random.Random, *_: object) -> bytes:
    width = rng.choice((2, 4, 4, 8))
    number = rng.choice(_NUMBERS + _MORE_NUMBERS) + rng.choice((0, 0, -1, 1))
    packed = (number % (1 << (8 * width))).to_bytes(width, rng.choice(("little", "big")))
    place = rng.randrange(max(1, len(data) - width + 1))
    return data[:place] + packed + data[place + width :]


def _nudge_number(data: bytes, rng: random.Random, *_: object) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    place = rng.randrange(max(1, len(data) - width + 1))
    value = int.from_bytes(data[place : place + width], order) + rng.choice((-9, -1, 1, 4, 64))
    packed = (value % (1 << (8 * width))).to_bytes(width, order)
    return data[:place] + packed + data[place + width :]


def _set_text_number(data: bytes, rng: random.Random, *_: object) -> bytes:
    found = list(_DIGITS.finditer(data[: 1 << 16]))
    if not found:
        return _set_byte(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_TEXT_NUMBERS) + data[match.end() :]


def _cut(data: bytes, rng: random.Random, *_: object) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 1024)))


def _remove(data: bytes, rng: random.Random, *_: object) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random, *_: object) -> bytes:
    start, end = _span(data, rng)
    times = rng.choice((2, 2, 3, 10, 100, 3_000))
    return data[:start] + data[start:end] * times + data[end:]


def _splice(data: bytes, rng: random.Random, inputs: Sequence[bytes], _: object) -> bytes:
    other = rng.choice(inputs)
    start, end = _span(other, rng)
    place, after = _span(data, rng)
    return data[:place] + other[start:end] + data[rng.choice((place, after)) :]


def _join(data: bytes, rng: random.Random, inputs: Sequence[bytes], _: object) -> bytes:
    other = rng.choice(inputs)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _insert_token(data: bytes, rng: random.Random, _: object, tokens: Sequence[bytes]) -> bytes:
    place, after = _span(data, rng)
    token = rng.choice(tokens) if tokens else rng.randbytes(rng.choice((1, 4, 16)))
    return data[:place] + token + data[rng.choice((place, after)) :]


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip, _set_byte, _set_byte, _set_number, _set_number, _nudge_number),
    *(_set_text_number, _cut, _remove, _repeat, _splice, _splice, _join),
    *(_insert_token, _insert_token),
)
