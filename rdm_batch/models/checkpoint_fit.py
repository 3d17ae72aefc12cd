"""Compare what a weights file holds with what an architecture needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from rdm_batch.formats.weights_file import WeightsFile
from rdm_batch.models.networks import NETWORKS, tensor_shapes
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.presets import PRESETS

WeightsCopy = Literal["ema", "raw"]

# What published files hold beside the networks: schedules (derived from the architecture
# here, and compared with it), bookkeeping of the moving average, special tokens.
_SCHEDULE_BUFFERS: Final = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)
NOT_WEIGHTS: Final = _SCHEDULE_BUFFERS | {
    "unconditional_guidance_vex",
    "sos_token",
    "mask_token",
    "model_ema.decay",
    "model_ema.num_updates",
}


def names_in_file(
    file: WeightsFile, architecture: Architecture, weights: WeightsCopy
) -> dict[str, str]:
    """Map every tensor of the networks to the name under which the file has it.

    Moving averages are stored with the dots of their names removed, so names cannot be
    read back from the file: they are made from the networks' own.
    """
    names = {name: name for name in tensor_shapes(architecture)}
    if weights == "ema" and any(name.startswith("model_ema.") for name in file.entries):
        for name in names:
            if name.startswith("model."):
                names[name] = _ema_name(name)
    return names


def _ema_name(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def fit_problems(
    file: WeightsFile, architecture: Architecture, names: Mapping[str, str]
) -> list[str]:
    """List everything about a file that does not fit an architecture."""
    expected = tensor_shapes(architecture)
    averages = {_ema_name(name) for name in names if name.startswith("model.")}
    unused = (NOT_WEIGHTS | averages | set(names)) - set(names.values())
    problems = shape_problems(
        {names[name]: shape for name, shape in expected.items()},
        {name: entry.shape for name, entry in file.entries.items() if name not in unused},
    )
    problems += [
        f"not floating-point: {name} is {file.entries[name].dtype}"
        for name in names.values()
        if name in file.entries and not file.entries[name].dtype.is_floating_point
    ]
    if problems:
        closest = _closest_preset(file)
        if closest is not None and PRESETS[closest] != architecture:
            problems.insert(0, f"the closest preset is {closest}")
    else:
        problems += NETWORKS[architecture.kind].content_problems(file, architecture)
    return problems


def shape_problems(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """List every tensor that is missing, unexpected or misshapen."""
    missing = [
        f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in found
    ]
    unexpected = [
        f"unexpected: {name} {list(shape)}" for name, shape in found.items() if name not in expected
    ]
    misshapen = [
        f"misshapen: {name} is {list(found[name])}, needed {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return missing + unexpected + misshapen


def fitting_preset(file: WeightsFile) -> str | None:
    """Name the preset a file has all tensors of, if there is one."""
    closest, problems = _closest(file)
    return None if problems else closest


def _closest(file: WeightsFile) -> tuple[str, int]:
    """Find the preset of which a file lacks fewest tensors, or has in another shape, and how many.

    Of several the largest: the networks of one may be part of another's.
    """
    shapes = {name: tensor_shapes(preset) for name, preset in PRESETS.items()}
    problems = {
        preset: sum(
            name not in file.entries or file.entries[name].shape != shape
            for name, shape in of_preset.items()
        )
        for preset, of_preset in shapes.items()
    }
    closest = min(problems, key=lambda name: (problems[name], -len(shapes[name])))
    return closest, problems[closest]


def _closest_preset(file: WeightsFile) -> str | None:
    """Name the preset most tensors of a file fit, if any fit half of it."""
    closest, problems = _closest(file)
    fits_half = 2 * problems <= len(tensor_shapes(PRESETS[closest]))
    return closest if fits_half else None
