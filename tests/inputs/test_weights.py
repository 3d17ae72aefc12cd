from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rdm_batch.cli import main
from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.inputs.weights import (
    CheckpointRequest,
    convert_checkpoint,
    describe_checkpoint,
    inspect_checkpoint,
    open_checkpoint,
)
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import RdmModel
from rdm_batch.specs.presets import PRESETS
from rdm_batch.specs.sampling import DdimSampling
from rdm_batch.storage.object_store import open_store
from tests.tiny_heads import TINY_RDM, random_weights


def _write_architecture(folder: Path) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RDM.model_dump(mode="json")))
    return str(path)


def _write_weights(folder: Path) -> str:
    torch.save({"state_dict": random_weights(TINY_RDM), "epoch": 3}, folder / "model.ckpt")
    return str(folder / "model.ckpt")


def _write_shapes(path: Path, preset: str) -> str:
    """Write a file with the shapes of a published checkpoint and next to no bytes."""
    shapes = tensor_shapes(PRESETS[preset])
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, path)
    return str(path)


def test_converted_file_carries_the_weights_and_their_architecture(tmp_path: Path) -> None:
    request = CheckpointRequest(_write_weights(tmp_path), None, _write_architecture(tmp_path))
    out = tmp_path / "new" / "head.safetensors"
    info = convert_checkpoint(request, out)
    assert info.problems == ()
    loaded = load_checkpoint(out)
    assert loaded.architecture == TINY_RDM
    expected = random_weights(TINY_RDM)
    assert all(torch.equal(loaded.state_dict[name], expected[name]) for name in expected)


def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    request = CheckpointRequest(_write_weights(tmp_path), None, _write_architecture(tmp_path))
    (tmp_path / "out").write_text("precious")
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(request, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize("preset", list(PRESETS))
def test_weights_of_a_preset_fit_it_and_are_recognized_under_another(
    tmp_path: Path, preset: str
) -> None:
    uri = _write_shapes(tmp_path / "model.ckpt", preset)
    info = inspect_checkpoint(CheckpointRequest(uri, preset))
    assert info.problems == ()
    assert describe_checkpoint(info)["kind"].endswith(f"({preset})")
    other = next(name for name in PRESETS if name != preset)
    assert inspect_checkpoint(CheckpointRequest(uri, other)).problems[0] == (
        f"the closest preset is {preset}"
    )
    assert f"the preset {preset} fits" in inspect_checkpoint(CheckpointRequest(uri)).problems[0]


def test_weights_that_resemble_no_preset_suggest_none(tmp_path: Path) -> None:
    problems = inspect_checkpoint(
        CheckpointRequest(_write_weights(tmp_path), "rdm-imagenet-256")
    ).problems
    assert not any("closest preset" in problem for problem in problems)


def test_preset_and_architecture_exclude_each_other(tmp_path: Path) -> None:
    request = CheckpointRequest(_write_weights(tmp_path), "rdm-768", "a.yaml")
    with pytest.raises(SpecError, match="excludes --architecture"):
        inspect_checkpoint(request)


def test_inspect_command_says_whether_weights_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["checkpoint", "inspect", _write_weights(tmp_path)]
    assert main([*arguments, "--architecture", _write_architecture(tmp_path)]) == 0
    assert "  fits" in capsys.readouterr().out
    assert main([*arguments, "--preset", "rdm-768"]) == 1
    printed = capsys.readouterr().out
    assert "misshapen: model.diffusion_model.time_embed.0.weight" in printed
    assert "does not fit" in printed
    assert main([*arguments, "--preset", "rdm-7680"]) == 1
    assert "there is no preset 'rdm-7680'" in capsys.readouterr().err


def test_convert_command_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"
    arguments = [_write_weights(tmp_path), "--architecture", _write_architecture(tmp_path)]
    assert main(["checkpoint", "convert", *arguments, "--out", str(out)]) == 0
    assert f"checkpoint {out}" in capsys.readouterr().out
    assert main(["checkpoint", "inspect", str(out)]) == 0


def test_an_opened_checkpoint_pickles_small_and_loads_its_head_elsewhere(tmp_path: Path) -> None:
    path = _write_weights(tmp_path)
    architecture = _write_architecture(tmp_path)
    opened = open_checkpoint(RdmModel(head="rdm", checkpoint=path, architecture=architecture))
    assert (opened.image_size, opened.context_dim) == (16, TINY_RDM.context_dim)
    # What was opened carries what it needs: the architecture's file is not asked for again.
    Path(architecture).unlink()
    sent = pickle.dumps(opened)
    assert len(sent) < 4_000
    sampling = DdimSampling(sampler="ddim", num_samples=1, num_steps=2)
    head = pickle.loads(sent).load_head(sampling, TINY_RDM.context_dim, "cpu")
    context = np.zeros((1, 1, TINY_RDM.context_dim), np.float32)
    assert head.generate(context, SampleNoise(0, np.arange(1))).shape == (1, 16, 16, 3)


_MEASURE = """
import gc
import sys
from pathlib import Path
import torch
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.heads.build import build_head_around
from rdm_batch.models.networks import load_networks
from rdm_batch.regression.memory import peak_resident
from rdm_batch.specs.architecture_files import load_architecture
from rdm_batch.specs.sampling import DdimSampling

def bytes_of(tensor):
    # Of a layout only oneDNN knows: it has no storage to ask.
    if tensor.layout != torch.strided:
        return tensor.numel() * tensor.element_size()
    return tensor.untyped_storage().nbytes()

def held():
    tensors = [value for value in gc.get_objects() if isinstance(value, torch.Tensor)]
    parts = {id(value): value for value in tensors}
    places = {
        part.untyped_storage().data_ptr() if part.layout == torch.strided else place: part
        for place, part in parts.items()
    }
    return sum(map(bytes_of, places.values()))

def build(weights, architecture, precision):
    loaded = load_checkpoint(Path(weights), load_architecture(Path(architecture)))
    size = sum(value.nbytes for value in loaded.state_dict.values())
    sampling = DdimSampling(sampler="ddim", num_samples=1, num_steps=2)
    networks = load_networks(loaded.architecture, loaded.state_dict)
    del loaded
    head = build_head_around(networks, sampling, precision=precision)
    del networks
    gc.collect()
    return size, held(), head

precision = sys.argv[5]
build(*sys.argv[1:3], precision)  # what libraries allocate once is not the weights'
before = peak_resident()
size, kept, _ = build(*sys.argv[3:5], precision)
print((peak_resident() - before) / size, kept / size)
"""


# In float32 a CPU keeps wide convolutions in a form of twice their size (models/filtering.py).
@pytest.mark.parametrize(("precision", "most_kept"), [("float32", 2.05), ("bfloat16", 0.55)])
def test_loading_takes_little_more_memory_than_the_weights_as_read_or_as_kept(
    tmp_path: Path, precision: str, most_kept: float
) -> None:
    wide = TINY_RDM.unet.model_copy(
        update={"model_channels": 192, "num_res_blocks": 2, "channel_mult": (1, 3)}
    )
    large = TINY_RDM.model_copy(update={"unet": wide})
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(large.model_dump(mode="json")))
    weights = {name: torch.zeros(shape) for name, shape in tensor_shapes(large).items()}
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value.clone()
        for name, value in weights.items()
        if name.startswith("model.")
    }
    moments = {key: torch.zeros(30_000_000) for key in ("exp_avg", "exp_avg_sq")}
    content = {"state_dict": weights | average, "optimizer_states": [{"state": {0: moments}}]}
    torch.save(content, tmp_path / "large.ckpt")
    arguments = [_write_weights(tmp_path), _write_architecture(tmp_path)]
    arguments += [str(tmp_path / "large.ckpt"), str(tmp_path / "large.yaml"), precision]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments], capture_output=True, text=True, check=True
    )
    peak, kept = map(float, done.stdout.split())
    assert 0.45 <= kept <= most_kept
    assert 0.9 <= peak <= 1.3 * max(1.0, kept)


def test_weights_in_an_object_store_are_inspected_and_converted(
    tmp_path: Path, moto_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    store = open_store(moto_uri)
    store.write_bytes("model.ckpt", Path(_write_weights(tmp_path)).read_bytes())
    store.write_bytes("config.yaml", Path(_write_architecture(tmp_path)).read_bytes())
    request = CheckpointRequest(f"{moto_uri}/model.ckpt", None, f"{moto_uri}/config.yaml")
    assert inspect_checkpoint(request).problems == ()
    assert convert_checkpoint(request, tmp_path / "head.safetensors").architecture == TINY_RDM
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        inspect_checkpoint(CheckpointRequest(f"{moto_uri}/none.ckpt", "rdm-768"))
