"""A compiled job compiles before its first image, and never again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# A process of its own: under pytest every annotation is checked, and what checks cannot be
# compiled. Graphs are run as they are; what is counted is how many there come to be.
_SCRIPT = """
import functools, json, sys
import torch
import rdm_batch
from rdm_batch.heads import arithmetic

graphs = []

def backend(graph, inputs):
    graphs.append(len(graphs))
    return graph.forward

compile = torch.compile
torch.compile = lambda function, **how: compile(
    function, dynamic=how["dynamic"], fullgraph=how["fullgraph"], backend=backend
)
arithmetic.use_kept_code = lambda: None
sampling = {"num_samples": 5, "batch_size": 2, "guidance_scale": 2.0}
found = {}
for head, sampler in (
    ("rdm", {"sampler": "dpm_solver_pp", "num_steps": 4, "reuse_deep_features": 2,
             "guidance_interval": [0.3, 5.0]}),
    ("rarm", {"sampler": "autoregressive"}),
):
    graphs.clear()
    torch._dynamo.reset()
    job = rdm_batch.load_job({
        "name": "compiled",
        "model": {"head": head, "checkpoint": f"package://shapes/{head}.safetensors",
                  "compile": True},
        "database": {"uri": "package://shapes/database"},
        "conditioning": {"mode": "unconditional", "k_nn": 4},
        "sampling": sampling | sampler,
        "output": {"uri": "not-written", "shard_size": 3},
    })
    counts, images = [], 0
    for batch in rdm_batch.generate(job):
        counts.append(len(graphs))
        images += len(batch.images)
    found[f"{head} {sampler['sampler']}"] = [images, counts]
print(json.dumps(found))
"""


def test_short_batches_and_later_shards_compile_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # One for every way of evaluating, and the decoder; a token and the decoder.
    expected = {"rdm dpm_solver_pp": 4, "rarm autoregressive": 2}
    assert found.keys() == expected.keys()
    for name, (images, counts) in found.items():
        assert images == 5, name
        assert len(counts) > 1, name
        assert set(counts) == {expected[name]}, name
