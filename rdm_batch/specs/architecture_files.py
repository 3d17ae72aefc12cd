"""Read architectures from files: this package's own format, and the published ``config.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rdm_batch.errors import SpecError
from rdm_batch.specs.families import Architecture, parse_architecture
from rdm_batch.specs.yaml_text import read_yaml

# What the networks here do not have a switch for, and the one value they implement.
_UNET_FIXED = {
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_spatial_transformer": True,
    "dims": 2,
    "conv_resample": True,
    "num_classes": None,
    "n_embed": None,
}
_TRANSFORMER_FIXED = {
    "positional_encodings": True,
    "cross_attend": True,
    "causal": True,
    "continuous": False,
}


class _Config:
    """Look up values in nested mappings and name the path of what is missing."""

    def __init__(self, values: Any, where: str, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise SpecError(where, f"{path or 'the file'} is not a mapping", "a published config")
        self.values = values
        self.where = where
        self.path = path

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def part(self, *keys: str) -> _Config:
        config = self
        for key in keys:
            config = _Config(config[key], self.where, config._name(key))
        return config

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise SpecError(self.where, f"{self._name(key)} is missing", "a published config")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def require(self, fixed: Mapping[str, Any]) -> None:
        """Refuse values this package has no implementation for."""
        for key, needed in fixed.items():
            found = self.values.get(key, needed)
            if found != needed:
                raise SpecError(
                    self.where,
                    f"{self._name(key)} is {found!r}",
                    f"{needed!r}, the only variant that is implemented",
                )


def from_published_config(config: Mapping[str, Any], where: str) -> Architecture:
    """Translate a published ``config.yaml``, already parsed, into an architecture.

    Args:
        config: The whole file, with ``model`` at its top.
        where: What to name in errors.

    Raises:
        SpecError: A value is missing, or asks for a variant that is not implemented.
    """
    model = _Config(config, where).part("model")
    target = str(model["target"]).rsplit(".", 1)[-1]
    if target not in _PUBLISHED_CLASSES:
        raise SpecError(
            where,
            f"model.target is {model['target']!r}",
            f"a class named {' or '.join(_PUBLISHED_CLASSES)}",
        )
    family = _PUBLISHED_CLASSES[target]
    fields = _FIELDS[family](model.part("params"))
    return parse_architecture({"kind": family, **fields}, where)


def load_architecture(path: Path) -> Architecture:
    """Read an architecture from a YAML file, this package's or a published ``config.yaml``.

    Raises:
        SpecError: The file cannot be read or does not describe an architecture.
    """
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise SpecError(str(path), "is not a mapping of fields", "an architecture")
    return read_architecture(values, str(path))


def read_architecture(values: Mapping[str, Any], where: str) -> Architecture:
    """Read an architecture from fields of this package's or of the published format.

    Raises:
        SpecError: The fields do not describe an architecture.
    """
    if "model" in values:
        return from_published_config(values, where)
    return parse_architecture(values, where)


def _rdm_fields(params: _Config) -> dict[str, Any]:
    unet = params.part("unet_config", "params")
    unet.require(_UNET_FIXED)
    if unet["in_channels"] != unet["out_channels"]:
        raise SpecError(
            params.where,
            f"{unet.path} has in_channels {unet['in_channels']} and out_channels "
            f"{unet['out_channels']}",
            "equal numbers",
        )
    return {
        "unet": {
            "latent_channels": unet["in_channels"],
            "model_channels": unet["model_channels"],
            "channel_mult": unet["channel_mult"],
            "num_res_blocks": unet["num_res_blocks"],
            "attention_downsampling": unet["attention_resolutions"],
            "head_channels": unet["num_head_channels"],
            "transformer_depth": unet.get("transformer_depth", 1),
            "context_dim": unet["context_dim"],
        },
        "autoencoder": _autoencoder_fields(params),
        "noise_schedule": {
            "num_train_steps": params.get("timesteps", 1000),
            "linear_start": params["linear_start"],
            "linear_end": params["linear_end"],
        },
        "latent_size": params["image_size"],
        "scale_factor": params.get("scale_factor", 1.0),
    }


def _rarm_fields(params: _Config) -> dict[str, Any]:
    transformer = params.part("transformer_config", "params")
    transformer.require(_TRANSFORMER_FIXED)
    return {
        "transformer": {
            "vocabulary_in": transformer["in_channels"],
            "vocabulary_out": transformer["out_channels"],
            "depth": transformer["depth"],
            "num_heads": transformer["n_heads"],
            "head_channels": transformer["d_head"],
            "context_dim": transformer["context_dim"],
            "num_positions": transformer["sequence_length"],
        },
        "autoencoder": _autoencoder_fields(params),
        "start_token": params["sos_token"],
    }


def _autoencoder_fields(params: _Config) -> dict[str, Any]:
    first_stage = params.part("first_stage_config", "params")
    sizes = first_stage.part("ddconfig")
    sizes.require({"out_ch": sizes["in_channels"], "resamp_with_conv": True})
    fields = {
        "kind": "kl" if sizes.get("double_z", True) else "vq",
        "channels": sizes["ch"],
        "channel_mult": sizes["ch_mult"],
        "num_res_blocks": sizes["num_res_blocks"],
        "resolution": sizes["resolution"],
        "attention_resolutions": sizes["attn_resolutions"],
        "image_channels": sizes["in_channels"],
        "latent_channels": sizes["z_channels"],
        "embed_dim": first_stage["embed_dim"],
    }
    if fields["kind"] == "vq":
        fields["codebook_size"] = first_stage["n_embed"]
    return fields


_PUBLISHED_CLASSES: Final = {
    "MinimalRETRODiffusion": "rdm",
    "LatentDiffusion": "rdm",
    "LatentImageRETRO": "rarm",
}
"""Families of the classes that published files name."""
_FIELDS: Final[dict[str, Callable[[_Config], dict[str, Any]]]] = {
    "rdm": _rdm_fields,
    "rarm": _rarm_fields,
}
"""How the published files of a family state its architecture."""
