"""What only a GPU can show: ``make test-gpu`` on a machine that has one.

Imports nothing that needs Ray, a database or an object store.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from rdm_batch.backends import multiplying
from rdm_batch.errors import CheckpointError, ClusterError
from rdm_batch.heads import token_loop
from rdm_batch.heads.build import build_head
from rdm_batch.heads.devices import device_class, device_software, require_device
from rdm_batch.heads.memory import telling_failures
from rdm_batch.heads.work import measure_peak
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights
from tests.tolerances import CHAIN_BYTES_FRACTION, CHAIN_BYTES_STEP

DDIM = DdimSampling(sampler="ddim", num_samples=8, num_steps=4, eta=1.0, guidance_scale=2.0)
TOKENS = AutoregressiveSampling(sampler="autoregressive", num_samples=8, guidance_scale=2.0)
CONTEXT = np.random.default_rng(0).standard_normal((8, 3, 6)).astype(np.float32)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is usable here"),
]
families = pytest.mark.parametrize(
    ("architecture", "sampling"), [(TINY_RDM, DDIM), (TINY_RARM, TOKENS)], ids=["rdm", "rarm"]
)


def _head(architecture: Architecture, sampling: SamplingSpec, device: str, **settings: Any) -> Any:
    return build_head(architecture, random_weights(architecture), sampling, device, **settings)


def _images(head: Any) -> np.ndarray:
    images: np.ndarray = head.generate(CONTEXT, SampleNoise(0, np.arange(8)))
    return images


def _differ(first: np.ndarray, second: np.ndarray) -> float:
    steps = np.abs(first.astype(int) - second.astype(int))
    return float((steps > CHAIN_BYTES_STEP).mean())


@families
def test_a_head_makes_the_images_on_a_gpu_that_it_makes_on_the_cpu(
    architecture: Architecture, sampling: SamplingSpec
) -> None:
    cpu, gpu = (_images(_head(architecture, sampling, device)) for device in ("cpu", "cuda"))
    assert _differ(cpu, gpu) <= CHAIN_BYTES_FRACTION


def test_float32_predicts_on_a_gpu_what_it_predicts_on_the_cpu() -> None:
    x = torch.randn(8, *TINY_RDM.latent_shape, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    for device in ("cpu", "cuda"):
        head = _head(TINY_RDM, DDIM, device)
        with torch.inference_mode(), multiplying():
            predict = head._predictor(torch.from_numpy(CONTEXT))
            found.append(predict(x.to(device), 0).cpu())
    assert float((found[0] - found[1]).abs().max() / found[0].abs().max()) <= 1e-5


@pytest.mark.parametrize("layer", ["convolution", "product"])
def test_tf32_rounds_and_float32_does_not(layer: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = nn.Conv2d(256, 256, 3) if layer == "convolution" else nn.Linear(256, 256)
    shape = (8, 256, 32, 32) if layer == "convolution" else (4096, 256)
    x = torch.randn(shape, device="cuda")
    exact = network.double().cuda()(x.double())
    network.float()
    errors = {}
    for tf32 in (False, True):
        with torch.inference_mode(), multiplying(tf32):
            error = (network(x).double() - exact).abs().max() / exact.abs().max()
        errors[tf32] = float(error)
    assert errors[False] < 1e-5 < errors[True] < 1e-2


@families
def test_precisions_stay_close_to_float32(
    architecture: Architecture, sampling: SamplingSpec
) -> None:
    exact = _images(_head(architecture, sampling, "cuda")).astype(int)
    for precision in ("tf32", "float16", "bfloat16"):
        images = _images(_head(architecture, sampling, "cuda", precision=precision)).astype(int)
        # Code words and tokens may change with a rounding, so only the mean is asked.
        assert np.abs(images - exact).mean() < 0.5 * exact.std(), precision


@families
def test_compiled_heads_are_recorded_once_and_draw_the_same_images(
    architecture: Architecture, sampling: SamplingSpec
) -> None:
    head = _head(architecture, sampling, "cuda", compile=True)
    head.warm_up(CONTEXT)
    graphs = counters["stats"]["unique_graphs"]
    images = _images(head)
    assert np.array_equal(_images(head), images)
    assert counters["stats"]["unique_graphs"] == graphs
    assert counters["inductor"]["cudagraph_skips"] == 0
    from torch._inductor.cudagraph_trees import get_container

    manager: Any = get_container(torch.cuda.current_device()).tree_manager
    assert manager is not None
    assert manager.roots
    assert _differ(images, _images(_head(architecture, sampling, "cuda"))) <= CHAIN_BYTES_FRACTION


def test_tokens_of_every_length_are_recorded_and_those_of_the_plain_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_loop, "_BUCKET", 4)
    plain, compiled = (_head(TINY_RARM, TOKENS, "cuda", compile=one) for one in (False, True))
    compiled.warm_up(CONTEXT)
    graphs = counters["stats"]["unique_graphs"]
    skips = counters["inductor"]["cudagraph_skips"]
    same = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(8, 16, generator=generator, dtype=torch.float64).to("cuda")
        context = torch.randn(8, 3, 6, generator=generator)
        drawn = [head.draw_tokens(context, uniform).tokens for head in (compiled, plain)]
        assert torch.equal(compiled.draw_tokens(context, uniform).tokens, drawn[0])
        same.append((drawn[0] == drawn[1]).all(dim=1).float().mean())
    # Four lengths, each warmed up, recorded and replayed before the first batch.
    assert compiled._loop._buckets == (4, 8, 12, 16)
    assert counters["stats"]["unique_graphs"] == graphs
    assert counters["inductor"]["cudagraph_skips"] == skips
    # A number that falls between two codes may fall to either with the last digit of a sum.
    assert float(torch.stack(same).mean()) >= 1 - 1 / 16


def test_a_second_start_finds_what_was_compiled(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        done = _process("rarm", tmp_path / "code")
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    (first, *_), (second, hits, misses) = found
    assert first == second
    assert int(hits) > 0
    assert int(misses) == 0


@families
def test_two_processes_make_equal_bytes_when_compiled(
    architecture: Architecture, sampling: SamplingSpec, tmp_path: Path
) -> None:
    digests = set()
    for number in range(2):
        # Caches of their own, so that both compile.
        done = _process(architecture.kind, tmp_path / str(number))
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.split()[0])
    assert len(digests) == 1


def _process(kind: str, code: Path) -> subprocess.CompletedProcess[str]:
    """Draw by a compiled head of a kind in another process."""
    return subprocess.run(
        [sys.executable, "-m", "tests.heads.test_gpu", kind],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )


@families
@pytest.mark.parametrize("compile", [False, True])
def test_batches_launched_one_after_the_other_are_those_drawn_alone(
    architecture: Architecture, sampling: SamplingSpec, compile: bool
) -> None:
    head = _head(architecture, sampling, "cuda", compile=compile)
    head.warm_up(CONTEXT)
    noises = [SampleNoise(0, np.arange(start, start + 8)) for start in (0, 8, 16)]
    alone = [head.generate(CONTEXT, noise) for noise in noises]
    drawings = [head.start(CONTEXT, noise) for noise in noises]
    for drawing, images in zip(drawings, alone, strict=True):
        assert np.array_equal(drawing.collect(), images)
        assert drawing.gpu_s() > 0


def test_a_batch_that_fails_does_so_when_it_is_collected() -> None:
    weights = {name: tensor * torch.inf for name, tensor in random_weights(TINY_RDM).items()}
    head = build_head(TINY_RDM, weights, DDIM, "cuda")
    drawing = head.start(CONTEXT, SampleNoise(0, np.arange(8)))
    with pytest.raises(CheckpointError, match="sample 0: its latents are not finite after step 1"):
        drawing.collect()


def test_launching_a_batch_waits_for_nothing() -> None:
    head = _head(TINY_RDM, DDIM, "cuda")
    head.generate(CONTEXT, SampleNoise(0, np.arange(8)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawing = head.start(CONTEXT, SampleNoise(0, np.arange(8)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drawing.collect()


def test_the_peak_is_measured_in_less_than_a_second() -> None:
    begin = time.perf_counter()
    assert 1e12 < measure_peak("bfloat16") < 1e16
    assert time.perf_counter() - begin < 1


def test_too_little_memory_is_told_with_a_batch_size_that_fits() -> None:
    wanted = r"a batch of 64 samples wanted \d+\.\d\d GiB"
    with pytest.raises(ClusterError, match=wanted) as caught, telling_failures(64):
        torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
    assert "set sampling.batch_size to " in str(caught.value)


def test_the_device_says_what_it_is() -> None:
    assert require_device("cuda") == "cuda"
    assert device_class("cuda").startswith("cuda sm")
    assert all(device_software("cuda").values())


if __name__ == "__main__":
    chosen = {"rdm": (TINY_RDM, DDIM), "rarm": (TINY_RARM, TOKENS)}[sys.argv[1]]
    head = _head(*chosen, "cuda", compile=True)
    head.warm_up(CONTEXT)
    kept = [counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss")]
    print(hashlib.sha256(_images(head).tobytes()).hexdigest(), *kept)
