"""Load the transformer of published VQ-Diffusion weights.

Two layouts, of the same networks (Gu et al. 2022, arXiv:2111.14822): the authors' ``.pth``, a dict
with ``model``, the moving average ``ema`` of its transformer, and optimizers; and a folder as
diffusers writes it. Sizes are read off the tensors, which are read one by one; nothing in a file
is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import ValidationError

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.weights_file import WeightsFile, open_weights
from rdm_batch.models.checkpoint_fit import shape_problems
from rdm_batch.models.code_transformer import CodeTransformer
from rdm_batch.specs.networks import CodeTransformerConfig

_AVERAGED: Final = "ema.transformer."
_RAW: Final = "transformer.transformer."
_PARTS: Final = {
    "ln1": "norm1",
    "ln1_1": "norm2",
    "ln2": "norm3",
    "attn1": "attn1",
    "attn2": "attn2",
    "mlp": "ff.net",
}
_LAYERS: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj": "to_out.0"}
_BLOCK: Final = re.compile(r"transformer_blocks\.(\d+)\.(\w+)\.(.*)")
_HEAD_CHANNELS: Final = 64
"""Of all published models, whose files do not say it."""
_FOLDER_WEIGHTS: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_LISTED: Final = 8
_ACTIVATIONS: Final[Mapping[str, Literal["exact", "sigmoid"]]] = {
    "gelu": "exact",
    "geglu-approximate": "sigmoid",
}


def load_code_transformer(path: Path) -> CodeTransformer:
    """Load the transformer of a published VQ-Diffusion checkpoint, as float32.

    Args:
        path: The authors' ``.pth``, of which the moving average is taken if it has one; or a
            folder with ``config.json`` that diffusers wrote, the transformer's or the pipeline's.

    Raises:
        CheckpointError: The file is missing, damaged or something else; or tensors are missing,
            unexpected, misshapen (the first eight are listed) or not finite.
    """
    return _load_folder(path) if path.is_dir() else _load_file(path)


def _load_file(path: Path) -> CodeTransformer:
    file = open_weights(path)
    prefix = _AVERAGED if any(name.startswith(_AVERAGED) for name in file.entries) else _RAW
    names = {
        _our_name(name.removeprefix(prefix)): name
        for name in file.entries
        if name.startswith(prefix)
    }
    if not names:
        raise CheckpointError(str(path), "holds no transformer of VQ-Diffusion", f"{_RAW}*")
    return _load(file, names, lambda width: (width // _HEAD_CHANNELS, _HEAD_CHANNELS), "sigmoid")


def _load_folder(path: Path) -> CodeTransformer:
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    config = _read_config(folder / "config.json")
    activation = str(config.get("activation_fn"))
    heads = (config.get("num_attention_heads"), config.get("attention_head_dim"))
    if activation not in _ACTIVATIONS or not all(type(number) is int for number in heads):
        raise CheckpointError(
            str(folder / "config.json"),
            f"activation_fn {activation!r}, {heads[0]!r} heads of {heads[1]!r} channels",
            f"activation_fn {' or '.join(_ACTIVATIONS)}, and whole numbers",
        )
    found = next((folder / name for name in _FOLDER_WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise CheckpointError(str(folder), "holds no weights", " or ".join(_FOLDER_WEIGHTS))
    file = open_weights(found)
    names = {name: name for name in file.entries}
    return _load(file, names, lambda width: heads, _ACTIVATIONS[activation])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = parse_json(file.read(_MAX_CONFIG_BYTES))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})") from None
    except FormatError as problem:
        raise CheckpointError(str(path), str(problem)) from None
    if not isinstance(content, dict):
        raise CheckpointError(str(path), f"holds a {type(content).__name__}", "an object")
    return content


def _our_name(published: str) -> str:
    """Give a tensor's name in ``CodeTransformer`` for that in the authors' files."""
    name = published.replace("content_emb.", "latent_image_embedding.", 1)
    name = re.sub(r"^to_logits\.0\.", "norm_out.", name)
    name = re.sub(r"^to_logits\.1\.", "out.", name)
    name = re.sub(r"^blocks\.", "transformer_blocks.", name)
    block = _BLOCK.fullmatch(name)
    if block is None:
        return name
    number, part, rest = block.groups()
    layer, _, kind = rest.rpartition(".")
    if part == "mlp" and layer == "0":
        layer = "0.proj"
    layer = _LAYERS.get(layer, layer)
    place = f"transformer_blocks.{number}.{_PARTS.get(part, part)}"
    return f"{place}.{layer}.{kind}" if layer else f"{place}.{kind}"


def _load(
    file: WeightsFile,
    names: Mapping[str, str],
    heads_of: Callable[[int], tuple[Any, Any]],
    gelu: Literal["exact", "sigmoid"],
) -> CodeTransformer:
    """Build the network that a file's tensors are of, and read them into it.

    Args:
        file: Holds the tensors.
        names: Their names in the file, by those in the network.
        heads_of: Number and channels of the heads, of a network's width.
        gelu: The activation.
    """
    config = _read_sizes(file, names, heads_of, gelu)
    with torch.device("meta"):
        network = CodeTransformer(config)
    expected = {names.get(k, k): tuple(v.shape) for k, v in network.state_dict().items()}
    problems = shape_problems(expected, {name: file.entries[name].shape for name in names.values()})
    if not problems:
        state = {}
        for ours, name in names.items():
            state[ours] = file.read(name).float()
            if not torch.isfinite(state[ours]).all():
                problems.append(f"not finite: {name}")
        network.load_state_dict(state, assign=True)
    if problems:
        listed = [*problems[:_MAX_LISTED]]
        if len(problems) > _MAX_LISTED:
            listed.append(f"and {len(problems) - _MAX_LISTED:,} more")
        found = "\n  - ".join(["these weights cannot be used:", *listed])
        raise CheckpointError(str(file.path), found)
    return network.eval()


def _read_sizes(
    file: WeightsFile,
    names: Mapping[str, str],
    heads_of: Callable[[int], tuple[Any, Any]],
    gelu: Literal["exact", "sigmoid"],
) -> CodeTransformerConfig:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        entry = file.entries.get(names.get(name, ""))
        if entry is None or len(entry.shape) != dimensions:
            found = "is missing" if entry is None else f"is {list(entry.shape)}"
            raise CheckpointError(
                str(file.path), f"{name} {found}", f"a tensor of {dimensions} dimensions"
            )
        return entry.shape

    states, width = shape("latent_image_embedding.emb.weight", 2)
    blocks = {block[1] for name in names if (block := _BLOCK.fullmatch(name))}
    num_heads, head_channels = heads_of(width)
    try:
        return CodeTransformerConfig(
            codebook_size=states - 1,
            depth=len(blocks),
            num_heads=num_heads,
            head_channels=head_channels,
            context_dim=shape("transformer_blocks.0.attn2.to_k.weight", 2)[1],
            grid_size=shape("latent_image_embedding.height_emb.weight", 2)[0],
            num_times=shape("transformer_blocks.0.norm1.emb.weight", 2)[0],
            expansion=shape("transformer_blocks.0.ff.net.2.weight", 2)[1] // max(width, 1),
            gelu=gelu,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "sizes"
        raise CheckpointError(str(file.path), f"{where}: {first['msg']}") from None
