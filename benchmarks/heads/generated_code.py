"""Count what compiled heads do on an H200, from the code generated for one that is not there.

    python -m benchmarks.heads.generated_code --json benchmarks/results/generated_code.json

Inputs: none, and no GPU: tensors are fake, code is generated and not run (``pretend_h200``).
Needs Triton. Budgets were written before the counts: a kernel more for every token, or an input
that is copied before every replay, shows here and not first on a bill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from benchmarks.heads.pretend_h200 import Generated, generated, pretend
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from rdm_batch.heads.build import HEADS
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import NETWORKS
from rdm_batch.models.unet import ContextFeatures
from rdm_batch.specs.families import Architecture, RarmArchitecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.presets import PRESETS
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from tests.heads.pretend_cuda import pretended_cuda

PRECISION: Final[Precision] = "bfloat16"
K_NN: Final = 4


@dataclass(frozen=True)
class Case:
    """Say what is counted, and what it may cost.

    Attributes:
        architecture: Of the head.
        batch: Samples computed at once; at most 32 of them are decoded at once.
        budgets: Launches and GB that graphs may take; others are not generated.
    """

    architecture: Architecture
    batch: int
    budgets: Mapping[str, tuple[int, float]]


CASES: Final[dict[str, Case]] = {
    "rarm-imagenet-256": Case(
        PRESETS["rarm-imagenet-256"],
        64,
        {
            "token, length 64": (340, 1.3),
            "token, length 256": (340, 2.7),
            # 59 convolutions, 39 norms of two kernels each (one sums, one applies), 4 attentions
            # and the 12 biases of what they see, and 17 sums and doubled images that two kernels
            # read. Predicted were 130, fewer than the first three alone: wrong.
            "decoder": (170, 40.0),
        },
    ),
    "rdm-imagenet-256": Case(
        PRESETS["rdm-imagenet-256"],
        64,
        {
            "step": (520, 90.0),
            # 20.6 of convolutions, 28.0 of norms, 5.8 of doubled images, 4.3 of sums, 1.3 of
            # attention. Predicted were 60.
            "decoder": (130, 60.2),
        },
    ),
}


Make = Callable[[], Generated]
"""Generates the code of a graph."""


def graphs_of(architecture: Architecture, batch: int) -> Iterator[tuple[str, Make]]:
    """Name everything a compiled head repeats, each with what generates its code.

    Args:
        architecture: Of the head.
        batch: Samples computed at once.
    """
    sampling: SamplingSpec
    common: dict[str, Any] = {"num_samples": 1, "guidance_scale": 2.0}
    if isinstance(architecture, RarmArchitecture):
        sampling = AutoregressiveSampling(sampler="autoregressive", top_k=8, top_p=0.9, **common)
    else:
        sampling = DdimSampling(sampler="ddim", num_steps=2, **common)
    with pretended_cuda():
        with torch.device("cuda"):
            networks = NETWORKS[architecture.kind](architecture)
        # The functions are compiled here, by another compiler.
        head = HEADS[architecture.kind].build(networks, sampling, "cuda", PRECISION, True)
        kind = {"device": "cuda", "dtype": getattr(torch, PRECISION)}
        context = torch.zeros(batch, K_NN, architecture.context_dim, **kind)
        with torch.inference_mode():
            if isinstance(head, RarmHead):
                yield from _token_graphs(head, context)
            else:
                assert isinstance(head, RdmHead)
                yield "step", partial(_step_graph, head, context)
            rows = min(batch, 32)
            ids = torch.zeros(
                rows, architecture.latent_size, architecture.latent_size, dtype=torch.int64
            )
            yield "decoder", partial(generated, head._autoencoder.decode_ids, ids.to("cuda"))


def _token_graphs(head: RarmHead, context: torch.Tensor) -> Iterator[tuple[str, Make]]:
    loop = head._loop
    assert loop is not None
    uniform = torch.zeros(len(context), loop._buckets[-1], dtype=torch.float64, device="cuda")
    state = loop._begin(context, uniform)
    for length in (loop._buckets[0], loop._buckets[-1]):
        yield f"token, length {length}", partial(generated, loop.step, state, length)


def _step_graph(head: RdmHead, context: torch.Tensor) -> Generated:
    x = torch.zeros(
        len(context), *head.architecture.latent_shape, dtype=context.dtype, device="cuda"
    ).contiguous(memory_format=torch.channels_last)
    steps = head._steps
    features = ContextFeatures(steps.unet.context_features(context).keys_values, guided=True)
    x, biases = steps._arguments(x, 0, True, None)
    return generated(steps.unet.predict, x, biases, features)


def rows_of(case: Case) -> Iterator[Row]:
    """Count, and say what the budget is."""
    for name, make in graphs_of(case.architecture, case.batch):
        if name not in case.budgets:
            continue
        found, (launches, gbyte) = make(), case.budgets[name]
        yield Row(
            name=name,
            value=found.launches,
            unit="launches",
            needed=launches,
            details={
                "GB": found.num_bytes / 1e9,
                "GB at most": gbyte,
                "within GB": found.num_bytes / 1e9 <= gbyte,
                "inputs copied": found.copied_inputs,
                "changed inputs that move": found.moving_mutated,
                "not recorded because": found.refusal or None,
            },
        )


def main(argv: list[str] | None = None, cases: Mapping[str, Case] = CASES) -> None:
    """Count the cases asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--presets", nargs="+", choices=list(cases), default=list(cases))
    args = parser.parse_args(argv)
    pretend()
    recorder = Recorder(
        "heads.generated_code",
        "What compiled heads do on an H200, by the code generated for it",
        "Nothing is run. Launches and bytes of one graph, as Inductor counts them; inputs that are "
        "copied before every replay of its CUDA graph; what would keep it from being recorded.",
        args.json,
    )
    for preset in args.presets:
        case = cases[preset]
        settings = {"batch": case.batch, "guidance_scale": 2.0}
        for row in rows_of(case):
            recorder.add(preset, [row], {**settings, "precision": PRECISION, "k_nn": K_NN})


if __name__ == "__main__":
    run(main)
