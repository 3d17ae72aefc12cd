from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from rdm_batch.errors import SpecError
from rdm_batch.heads.arithmetic import compiled, recording_graphs

# In a process of its own: the shape checks of the tests cannot be traced. Graphs are traced
# whole and run as they are, without a compiler.
_SCRIPT = """
import numpy as np
import torch
from types import SimpleNamespace
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.renderer import ContextSource, ShardClock, ShardRenderer
from rdm_batch.heads import decode, token_loop
from rdm_batch.heads.build import build_head
from rdm_batch.retrieval.retriever import ObservedRetriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, MaskReplaceSampling
from tests.tiny_heads import TINY_KNN_DISCRETE, TINY_RARM, TINY_RDM, random_weights

graphs = []
# Sixteen tokens in lengths of 4, 8, 12 and 16; one of two images is decoded after the other.
token_loop._BUCKET = 4
decode._PIXELS_AT_ONCE_ON_CPU = 64

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

original = torch.compile

def trace(function, **options):
    assert options == {"dynamic": False, "fullgraph": True}, options
    return original(function, backend=backend, **options)

torch.compile = trace
common = {"num_samples": 1, "guidance_scale": 2.0}
for architecture, sampling in (
    (TINY_RDM, DdimSampling(sampler="ddim", num_steps=3, **common)),
    (TINY_RARM, AutoregressiveSampling(sampler="autoregressive", top_k=9, top_p=0.9, **common)),
    (TINY_KNN_DISCRETE, MaskReplaceSampling(sampler="mask_replace", num_steps=3, **common)),
):
    context = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    weights = random_weights(architecture)
    plain = build_head(architecture, weights, sampling)
    compiled = build_head(architecture, weights, sampling, compile=True)
    graphs.clear()
    torch._dynamo.reset()  # equal decoders share a graph
    compiled.warm_up(context)
    made = len(graphs)
    for indices in ([0, 1], [2, 3]):
        noise = SampleNoise(0, np.array(indices, dtype=np.int64))
        expected = plain.generate(context, noise).astype(int)
        difference = np.abs(compiled.generate(context, noise) - expected).max()
        assert difference <= 1, difference
    # A job whose shards and batches end short: filled up, and compiled no second time.
    def conditioner(noise, retriever):
        rows = np.repeat(context[:1], len(noise), axis=0)
        return SimpleNamespace(conditioning=SimpleNamespace(context=rows), sources=None)
    renderer = ShardRenderer(compiled, 0, 2, rows=2)
    source = ContextSource(conditioner, ObservedRetriever(None, None))
    for start, stop in ((0, 3), (3, 4)):
        shard = ShardRange(0, start, stop)
        assert len(renderer.render(shard, source, ShardClock()).images) == stop - start
    assert len(graphs) == made
    print(architecture.kind, made)
# Jobs of one process: each has graphs of its own, more than PyTorch would make of a function.
sampling = AutoregressiveSampling(sampler="autoregressive", **common)
for _ in range(2):
    head = build_head(TINY_RARM, random_weights(TINY_RARM), sampling, compile=True)
    head.warm_up(context[:1])
    head.warm_up(context[:1, :2])
"""


def test_compiled_heads_draw_the_same_images_from_graphs_made_before_the_first_batch(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "RDM_BATCH_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # One graph for all steps, or for the tokens of one length, and one for decoding: made before
    # the first batch, and for the next one of the same shape.
    assert done.stdout.splitlines() == ["rdm 2", "rarm 5", "knn_discrete 2"]


def test_graphs_of_a_gpu_are_whole_recorded_and_chosen_by_rule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.update(how) or function)
    compiled(torch.neg, torch.device("cuda"))
    assert asked == {
        "dynamic": False,
        "fullgraph": True,
        "options": {"triton.cudagraphs": True, "deterministic": True},
    }
    assert set(asked["options"]) <= set(torch._inductor.list_options())


def test_compiling_is_refused_where_kernels_are_chosen_by_timing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("rdm_batch.heads.arithmetic.torch._inductor.config", object())
    with pytest.raises(SpecError, match="chooses kernels by timing"):
        compiled(torch.neg, torch.device("cuda"))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_graphs_that_were_not_recorded_are_an_error_on_a_gpu(device: str) -> None:
    def compute() -> None:
        with recording_graphs(torch.device(device)):
            counters["inductor"]["cudagraph_skips"] += 2

    if device == "cpu":
        compute()
        return
    with pytest.raises(SpecError, match="2 parts of the network could not be recorded"):
        compute()
