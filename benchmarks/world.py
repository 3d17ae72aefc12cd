"""Measure what the shipped head of the shapes world makes of its neighbors.

    python -m benchmarks.world --samples 1000 --guidance 1 1.5 2 3 --json world.json

Every way of conditioning is judged by a classifier of rendered pixels (see
``benchmarks.world_judge``); its own accuracy on unseen renderings is the first line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.world_judge import Judge, accuracy, train_judge
from rdm_batch.datasets.shapes import HELD_OUT_PAIRS, ShapesSource, describe
from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.clip import OpenClipEncoder, load_encoder
from rdm_batch.retrieval.database import read_manifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.local import open_database, read_proposal
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import DdimSampling
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.pictures import save_grid

K_NN = 4
_BATCH = 64
_SHORT = 5  # "a red star"
Case = tuple[np.ndarray, list[dict[str, str]]]


def make_cases(encoder: OpenClipEncoder, count: int) -> dict[str, Case]:
    """Prepare contexts, and what pictures made from them should show."""
    root = local_path("package://shapes/database")
    database = open_database(root)
    pictures = ShapesSource("database", database.rows)
    proposal = read_proposal(root, read_manifest(root))
    rng = np.random.default_rng(0)
    queries = proposal.draw(rng.uniform(size=count), "proposal")
    query_facts = [pictures[int(row)].attributes for row in queries]

    unseen = ShapesSource("held_out", 20 * count)
    prompts = [unseen[index].attributes for index in range(count)]
    rare = [
        fact
        for fact in (unseen[index].attributes for index in range(20 * count))
        if (fact["shape"], fact["color"]) in HELD_OUT_PAIRS
    ][:count]
    pairs = [{name: fact[name] for name in ("shape", "color")} for fact in prompts]
    texts = encoder.encode_texts([describe(fact, _SHORT) for fact in prompts])
    near_text = database.search(texts, K_NN).embeddings

    styled = ShapesSource("style", 1_500, ["dotted"])
    style_rows = encoder.encode_images([styled[index].image for index in range(1_500)])
    style_queries = rng.integers(0, 1_500, count)
    style_ids, _ = exact_top_k(style_rows, style_rows[style_queries], K_NN)
    style_text_ids, _ = exact_top_k(style_rows, texts, K_NN)
    rare_texts = encoder.encode_texts([describe(fact, _SHORT) for fact in rare])
    return {
        "unconditional": (
            database.search(database.fetch(queries), K_NN).embeddings,
            query_facts,
        ),
        "text, direct": (texts[:, None], pairs),
        "text + neighbors": (
            np.concatenate([texts[:, None], near_text[:, : K_NN - 1]], axis=1),
            pairs,
        ),
        "neighbors of text": (near_text, pairs),
        "pairs never trained on": (
            database.search(rare_texts, K_NN).embeddings,
            [{name: fact[name] for name in ("shape", "color")} for fact in rare],
        ),
        "dotted database": (
            style_rows[style_ids],
            [styled[int(row)].attributes for row in style_queries],
        ),
        "dotted database, text": (
            style_rows[style_text_ids],
            [pair | {"style": "dotted"} for pair in pairs],
        ),
    }


def generate(head: Head, context: np.ndarray) -> np.ndarray:
    """Make one picture of every context."""
    parts = []
    for start in range(0, len(context), _BATCH):
        part = context[start : start + _BATCH].astype(np.float32)
        parts.append(head.generate(part, SampleNoise(0, np.arange(start, start + len(part)))))
    return np.concatenate(parts)


def judge_accuracy(judge: Judge, count: int = 2_000) -> dict[str, float]:
    """Measure the judge on renderings it has not seen."""
    source = ShapesSource("held_out", count)
    items = [source[index] for index in range(count)]
    images = np.stack([item.image for item in items])
    return accuracy(judge, images, [item.attributes for item in items])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000, help="pictures of every case")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps")
    parser.add_argument("--checkpoint", default="package://shapes/rdm.safetensors")
    parser.add_argument("--pictures", type=Path, help="folder for grids of samples")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()

    torch.set_num_threads(1)
    judge = train_judge()
    rows = [{"case": "judge on renderings", **judge_accuracy(judge)}]
    print(_line(rows[0]), flush=True)
    checkpoint = load_checkpoint(local_path(args.checkpoint))
    cases = make_cases(load_encoder(local_path("package://shapes/clip.safetensors")), args.samples)
    for scale in args.guidance:
        sampling = DdimSampling(
            sampler="ddim", num_steps=args.steps, guidance_scale=scale, num_samples=args.samples
        )
        weights = {name: tensor.float() for name, tensor in checkpoint.state_dict.items()}
        head = build_head(checkpoint.architecture, weights, sampling)
        for case, (context, wanted) in cases.items():
            images = generate(head, context)
            rows.append(
                {"case": case, "guidance": scale, **accuracy(judge, images, wanted)}  # type: ignore[dict-item]
            )
            print(_line(rows[-1]), flush=True)
            if args.pictures is not None:
                name = f"{case.replace(' ', '-').replace(',', '')}-{scale:g}.png"
                save_grid(images[:128], args.pictures / name)
    if args.json is not None:
        record = {"samples": args.samples, "steps": args.steps, "rows": rows}
        args.json.write_text(json.dumps(record, indent=2) + "\n")


def _line(row: dict[str, object]) -> str:
    numbers = "  ".join(
        f"{name} {value:.1%}" if name != "guidance" else f"guidance {value:g}"
        for name, value in row.items()
        if isinstance(value, float)
    )
    return f"{row['case']:<24}{numbers}"


if __name__ == "__main__":
    main()
