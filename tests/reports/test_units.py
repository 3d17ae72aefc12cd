from __future__ import annotations

import pytest

from rdm_batch.reports.units import (
    format_bytes,
    format_count,
    format_duration,
    format_measured,
    format_number,
    format_seconds,
    format_share,
    printable,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (25.64, "25.6"), (0.5, "0.500"), (12345.6, "12,346"), (3.2e-6, "3.20e-06")],
)
def test_numbers_keep_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (12.3456, 0.2134, "12.35 ± 0.21"),
        (1234.5, 21.0, "1,234 ± 21"),
        (0.7111, 0.0012, "0.7111 ± 0.0012"),
        (12.3456, None, "12.35"),
        (12.3456, 0.0, "12.35"),
    ],
)
def test_uncertainty_sets_the_precision(value: float, uncertainty: float | None, text: str) -> None:
    assert format_measured(value, uncertainty) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00034, "0.340 ms"), (0.0213, "21.3 ms"), (1.5, "1.50 s")]
)
def test_short_times_carry_their_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00"),
        (6.6, "0:07"),
        (754.0, "12:34"),
        (10921.0, "3:02:01"),
        (183721.0, "2d 3:02:01"),
    ],
)
def test_long_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(512, "512 B"), (1024, "1.00 KiB"), (1_234_567, "1.18 MiB"), (24 * 2**30, "24.0 GiB")],
)
def test_sizes_are_in_binary_units(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_shares_and_counts() -> None:
    assert format_share(0.9123) == "91.2 %"
    assert format_count(1, "shard") == "1 shard"
    assert format_count(1024, "shard") == "1,024 shards"


def test_terminal_escapes_are_made_harmless() -> None:
    assert printable("a\x1b[31mb\rc") == "a�[31mb�c"
    assert printable("naïve 画像") == "naïve 画像"
