"""The GPUs this process may use, counted as Ray counts them: by NVML and CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any, Final

_LIBRARY: Final = "libnvidia-ml.so.1"
_PROC: Final = Path("/proc/driver/nvidia/gpus")
_NAME_BYTES: Final = 96


def visible_gpus() -> tuple[str, ...]:
    """Name the models of the NVIDIA GPUs this process may use, without starting CUDA."""
    return _chosen(_by_nvml(_load()) or _by_proc(_PROC), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _chosen(gpus: list[tuple[str, str]], visible: str | None) -> tuple[str, ...]:
    """Keep what CUDA would see.

    Args:
        gpus: Model and UUID of every GPU; the UUID may be unknown, and is empty then.
        visible: CUDA_VISIBLE_DEVICES: numbers or beginnings of UUIDs. Whatever stands behind a
            name of no GPU is not seen, as CUDA has it. None: all.
    """
    if visible is None:
        return tuple(model for model, _ in gpus)
    models = []
    for name in (part.strip() for part in visible.split(",")):
        if name.isdecimal():
            found = gpus[int(name) : int(name) + 1]
        elif name.startswith("MIG-"):
            # A slice of some GPU; machines cut into slices have GPUs of one model.
            found = gpus[:1]
        else:
            found = [gpu for gpu in gpus if name and gpu[1].startswith(name)][:1]
        if not found:
            break
        models.append(found[0][0])
    return tuple(models)


def _load() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None


def _by_nvml(library: Any) -> list[tuple[str, str]]:
    """List model and UUID of the GPUs that the driver's library knows; none without a driver."""
    if library is None or library.nvmlInit_v2():
        return []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        return [_described(library, number) for number in range(count.value)]
    finally:
        library.nvmlShutdown()


def _described(library: Any, number: int) -> tuple[str, str]:
    device = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(device)):
        return "NVIDIA GPU", ""
    texts = []
    for ask in (library.nvmlDeviceGetName, library.nvmlDeviceGetUUID):
        text = ctypes.create_string_buffer(_NAME_BYTES)
        failed = ask(device, text, ctypes.c_uint(_NAME_BYTES))
        texts.append("" if failed else text.value.decode(errors="replace"))
    return texts[0] or "NVIDIA GPU", texts[1]


def _by_proc(folder: Path) -> list[tuple[str, str]]:
    """List model and UUID of the GPUs that the kernel's driver shows, where NVML is missing."""
    gpus = []
    for file in sorted(folder.glob("*/information")):
        text = file.read_text()
        model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
        uuid = re.search(r"^GPU UUID:\s*(\S+)$", text, re.MULTILINE)
        gpus.append((model[1].strip() if model else "NVIDIA GPU", uuid[1] if uuid else ""))
    return gpus
