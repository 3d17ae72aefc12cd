"""Whole heads on pretended CUDA tensors: where things are, and how often the GPU is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from rdm_batch.heads import knn_discrete, rarm, rdm, token_loop, unet_steps
from rdm_batch.heads.build import HEADS
from rdm_batch.models.networks import NETWORKS
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.precisions import PRECISIONS, Precision
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    MaskReplaceSampling,
    PlmsSampling,
)
from tests.heads.pretend_cuda import is_cuda, pretended_cuda
from tests.heads.test_flags import Watch
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_KNN_DISCRETE, TINY_RARM, TINY_RDM

STEPS = 3
_SAMPLINGS = {
    "ddim": (TINY_RDM, DdimSampling(sampler="ddim", num_steps=STEPS, eta=1.0, num_samples=4)),
    "cheaper": (
        TINY_RDM,
        DdimSampling(
            sampler="ddim", num_steps=STEPS, eta=1.0, num_samples=4, reuse_deep_features=2
        ),
    ),
    "middle": (
        TINY_RDM,
        DdimSampling(
            sampler="ddim",
            num_steps=STEPS,
            eta=1.0,
            num_samples=4,
            guidance_scale=2.0,
            guidance_interval=(0.3, 5.0),
            reuse_deep_features=2,
        ),
    ),
    "away": (
        TINY_RDM,
        DdimSampling(
            sampler="ddim",
            num_steps=STEPS,
            eta=1.0,
            num_samples=4,
            autoguidance=AutoguidanceSpec(checkpoint="weaker.safetensors", scale=1.5),
        ),
    ),
    "plms": (TINY_RDM, PlmsSampling(sampler="plms", num_steps=STEPS, num_samples=4)),
    "dpm": (TINY_RDM, DpmSolverSampling(sampler="dpm_solver_pp", num_steps=STEPS, num_samples=4)),
    "tokens": (TINY_RARM, AutoregressiveSampling(sampler="autoregressive", num_samples=4)),
    "query": (
        TINY_KNN_CONTINUOUS,
        DdimSampling(sampler="ddim", num_steps=STEPS, eta=1.0, num_samples=4),
    ),
    "codes": (
        TINY_KNN_DISCRETE,
        MaskReplaceSampling(sampler="mask_replace", num_steps=STEPS, num_samples=4),
    ),
}


class Counted(Watch):
    """Count copies between devices, and whatever waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.sent: set[torch.dtype] = set()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function.__name__
        if name == "numpy":
            return np.zeros(tuple(args[0].shape), str(args[0].dtype).rpartition(".")[2])
        if name in ("__bool__", "item", "__int__", "__float__"):
            self.counts["waits"] += is_cuda(args[0])
            return False
        result = super().__torch_function__(function, types, args, kwargs)
        source = args[1] if name == "copy_" else args[0] if name in ("to", "cpu") else result
        if isinstance(source, torch.Tensor) and is_cuda(source) != is_cuda(result):
            self.counts["to the GPU" if is_cuda(result) else "from the GPU"] += 1
            self.sent |= {source.dtype} if is_cuda(result) else set()
            self.counts["waits"] += not (kwargs or {}).get("non_blocking")
        return result


_CASES = [
    *product(
        (name for name in _SAMPLINGS if name not in ("middle", "away")),
        (1.0, 2.0),
        ("bfloat16",),
        (False,),
    ),
    *product(("middle",), (2.0,), ("bfloat16",), (False, True)),
    *product(("away",), (1.0,), ("bfloat16",), (False, True)),
    *product(("ddim", "tokens"), (1.0,), ("float32", "tf32", "float16"), (False,)),
    *product(("ddim", "tokens", "codes"), (2.0,), ("bfloat16",), (True,)),
]
"""Every solver and guidance; every precision of both families; compiled heads."""


@pytest.mark.parametrize(("name", "guidance_scale", "precision", "compile"), _CASES)
def test_a_head_stays_on_its_gpu(
    name: str,
    guidance_scale: float,
    precision: Precision,
    compile: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if compile:
        # What is to be compiled is run as it is: where its tensors are does not change.
        for module in (rdm, rarm, token_loop, knn_discrete, unet_steps):
            monkeypatch.setattr(module, "compiled", lambda function, device: function)
    architecture, sampling = _SAMPLINGS[name]
    sampling = sampling.model_copy(update={"guidance_scale": guidance_scale})
    context = np.ones((4, 3, 6), np.float32)
    with pretended_cuda():
        with torch.device("cuda"):
            networks = NETWORKS[architecture.kind](architecture)
            weaker = NETWORKS[architecture.kind](architecture)
        given = {"weaker": weaker} if getattr(sampling, "autoguidance", None) else {}
        build: Any = HEADS[architecture.kind].build
        head = build(networks, sampling, "cuda", precision, compile, **given)
        assert head.fixed_batches
        with Counted() as seen:
            drawing = head.start(context, SampleNoise(0, np.arange(4)))
            launched = seen.counts.copy()
            assert drawing.in_background
            images = drawing.collect()
    counts = seen.counts
    assert drawing.gpu_s() == 1e-3
    assert images.shape == (4, architecture.image_size, architecture.image_size, 3)
    # The context, the noise to start from or the uniform numbers, and the noise of steps.
    noisy_steps = STEPS if getattr(sampling, "eta", 0) or name == "codes" else 0
    assert counts["to the GPU"] <= 2 + noisy_steps
    # Which samples failed, in one or two places, and the images: launched, and not waited for.
    assert launched == counts
    assert counts["from the GPU"] == 3
    assert counts["waits"] == 0
    arithmetic = "tf32" if PRECISIONS[precision].tf32 else "ieee"
    assert seen.seen == {(arithmetic, arithmetic, True)}
