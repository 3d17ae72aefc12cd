from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.cluster.local import local_resources
from rdm_batch.reports import gpus

GPUS = [("NVIDIA H200", "GPU-aa1"), ("NVIDIA H200", "GPU-ab2"), ("NVIDIA L4", "GPU-b3")]


class _Library:
    """Answer as NVIDIA's management library does."""

    def __init__(self, refuses: str = "") -> None:
        self._refuses = refuses
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *args: 9 if name == self._refuses else getattr(self, name.lower())(*args)

    def nvmlinit_v2(self) -> int:
        self.opened += 1
        return 0

    def nvmlshutdown(self) -> int:
        self.opened -= 1
        return 0

    def nvmldevicegetcount_v2(self, count: Any) -> int:
        count._obj.value = len(GPUS)
        return 0

    def nvmldevicegethandlebyindex_v2(self, number: ctypes.c_uint, device: Any) -> int:
        device._obj.value = number.value + 1
        return 0

    def nvmldevicegetname(self, device: Any, text: Any, size: ctypes.c_uint) -> int:
        text.value = GPUS[device.value - 1][0].encode()
        return 0

    def nvmldevicegetuuid(self, device: Any, text: Any, size: ctypes.c_uint) -> int:
        text.value = GPUS[device.value - 1][1].encode()
        return 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["NVIDIA H200", "NVIDIA H200", "NVIDIA L4"]),
        ("", []),
        ("2,0", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-b3", ["NVIDIA L4"]),
        ("0,7,1", ["NVIDIA H200"]),
        ("-1", []),
        ("MIG-1", ["NVIDIA H200"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    library = _Library()
    monkeypatch.setattr(gpus, "_load", lambda: library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(gpus.visible_gpus()) == expected
    assert library.opened == 0
    assert local_resources().num_gpus == len(expected)


@pytest.mark.parametrize("refuses", ["nvmlInit_v2", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_does_not_answer_has_no_gpus(refuses: str) -> None:
    assert gpus._by_nvml(_Library(refuses)) == []


def test_a_gpu_without_a_name_is_one() -> None:
    assert gpus._by_nvml(_Library("nvmlDeviceGetName"))[2] == ("NVIDIA GPU", "GPU-b3")


def test_where_the_library_is_missing_the_kernel_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for slot in ("0000:01:00.0", "0000:02:00.0"):
        folder = tmp_path / slot
        folder.mkdir()
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{slot}\nIRQ: 1\n"
        )
    monkeypatch.setattr(gpus, "_load", lambda: None)
    monkeypatch.setattr(gpus, "_PROC", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000:02")
    assert gpus.visible_gpus() == ("NVIDIA H100",)
    monkeypatch.setattr(gpus, "_PROC", tmp_path / "none")
    assert gpus.visible_gpus() == ()
