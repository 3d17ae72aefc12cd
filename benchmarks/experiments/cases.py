"""Ways to condition the heads of the shapes world, and what their pictures should show.

Contexts come from the code that jobs use (``generation.modes``); sample i draws with the
noise of sample i, as in a job of seed 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.assemble import K_NN, Source
from rdm_batch.datasets.shapes import HELD_OUT_PAIRS, SHAPES, ShapesSource, describe
from rdm_batch.generation.modes.class_pools import ClassConditioner
from rdm_batch.generation.modes.queried import ContextOf, Turn
from rdm_batch.generation.modes.text import TextConditioner
from rdm_batch.models.clip import OpenClipEncoder, load_encoder
from rdm_batch.retrieval.conditioning import ContextVariant
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.sampling.noise import QUERY, SampleNoise
from rdm_batch.storage.object_store import local_path

POOL_SIZE = 50
STYLE = "dotted"
NUM_STYLED = 1_500
_SHORT = 5  # number of the caption "a red star"
Facts = list[dict[str, str]]


@dataclass(frozen=True)
class Case:
    """Hold contexts, and what pictures made from them should show.

    Attributes:
        context: Neighbors of every sample.
        wanted: What each picture should show, as far as it was asked for.
        neighbor_ids: Database rows of the context, where it holds nothing else.
    """

    context: np.ndarray
    wanted: Facts
    neighbor_ids: np.ndarray | None = None


class World:
    """A shipped encoder and the database, opened once.

    Args:
        encoder_uri: Its weights; the image tower has to be that of the database.
    """

    def __init__(self, encoder_uri: str = "package://shapes/clip.safetensors") -> None:
        encoder = load_encoder(local_path(encoder_uri))
        assert isinstance(encoder, OpenClipEncoder)
        self.encoder = encoder
        self.source = Source()
        self.pictures = ShapesSource("database", self.source.retriever.rows)

    def unconditional(self, count: int, top_m: float = 1.0, k_nn: int = K_NN) -> Case:
        """Neighbors of pseudo-queries: pictures should show what the query shows."""
        inputs = self.source.inputs(self.source.unconditional(top_m, k_nn), count)
        queries = inputs.conditioning.query_ids
        assert queries is not None
        facts = [self.pictures[int(row)].attributes for row in queries]
        return Case(inputs.conditioning.context, facts, inputs.conditioning.neighbor_ids)

    def classes(self, count: int) -> Case:
        """Draws from the pool that "An image of a star." retrieves."""
        prompts = tuple(f"An image of a {shape}." for shape in SHAPES)
        embeddings = self.encoder.encode_texts(list(prompts))
        conditioner = ClassConditioner(SHAPES, prompts, embeddings, K_NN, POOL_SIZE)
        inputs = self.source.inputs(conditioner, count)
        assert inputs.labels is not None
        return Case(inputs.conditioning.context, [{"shape": label} for label in inputs.labels])

    def texts(
        self, count: int, variant: ContextVariant, held_out_pairs: bool = False, k_nn: int = K_NN
    ) -> Case:
        """Follow "a red star", of pictures that are in no training set and no database."""
        wanted = _held_out_facts(count, held_out_pairs)
        prompts = tuple(describe(fact, _SHORT) for fact in wanted)
        embeddings = self.encoder.encode_texts(list(prompts))
        context = ContextOf(k_nn, variant)
        conditioner = TextConditioner(prompts, embeddings, Turn(len(prompts)), context)
        inputs = self.source.inputs(conditioner, count)
        pairs = [{name: fact[name] for name in ("shape", "color")} for fact in wanted]
        return Case(inputs.conditioning.context, pairs)

    def class_texts(self, count: int, k_nn: int) -> Case:
        """Follow "An image of a star.", the text first and its neighbors after it."""
        labels = [SHAPES[index % len(SHAPES)] for index in range(count)]
        prompts = tuple(f"An image of a {label}." for label in labels)
        embeddings = self.encoder.encode_texts(list(prompts))
        context = ContextOf(k_nn, "query_and_neighbors")
        conditioner = TextConditioner(prompts, embeddings, Turn(len(prompts)), context)
        made = self.source.inputs(conditioner, count).conditioning.context
        return Case(made, [{"shape": label} for label in labels])

    def styled(self, count: int, k_nn: int = K_NN, text_leads: bool = False) -> tuple[Case, Case]:
        """Exchange the database for dotted pictures: unconditional, and by text.

        Args:
            count: Samples of each.
            k_nn: Entries of a context.
            text_leads: Whether a text's embedding is the first of them.
        """
        source = ShapesSource("style", NUM_STYLED, [STYLE])
        rows = self.encoder.encode_images([source[index].image for index in range(NUM_STYLED)])
        uniforms = SampleNoise(0, np.arange(count)).uniform(QUERY, ())
        queries = np.floor(uniforms * NUM_STYLED).astype(np.int64)
        ids, _ = exact_top_k(rows, rows[queries], k_nn)
        wanted = _held_out_facts(count, held_out_pairs=False)
        texts = self.encoder.encode_texts([describe(fact, _SHORT) for fact in wanted])
        text_ids, _ = exact_top_k(rows, texts, k_nn - text_leads)
        by_text = rows[text_ids]
        if text_leads:
            by_text = np.concatenate([texts[:, None], by_text], axis=1)
        of_texts = [
            {"shape": fact["shape"], "color": fact["color"], "style": STYLE} for fact in wanted
        ]
        return (
            Case(rows[ids], [source[int(row)].attributes for row in queries]),
            Case(by_text, of_texts),
        )


def claims(world: World, count: int) -> dict[str, Case]:
    """Prepare every way of conditioning that the method promises to follow."""
    styled, styled_text = world.styled(count)
    return {
        "unconditional": world.unconditional(count),
        "class": world.classes(count),
        "text, direct": world.texts(count, "query"),
        "text + neighbors": world.texts(count, "query_and_neighbors"),
        "neighbors of text": world.texts(count, "neighbors"),
        "held-out pairs": world.texts(count, "neighbors", held_out_pairs=True),
        "dotted database": styled,
        "dotted database, text": styled_text,
    }


def query_claims(world: World, count: int, k_nn: int) -> dict[str, Case]:
    """Prepare the same for heads that a query leads: it and its k_nn - 1 neighbors."""
    styled, styled_text = world.styled(count, k_nn, text_leads=True)
    return {
        "text": world.texts(count, "query_and_neighbors", k_nn=k_nn),
        "class": world.class_texts(count, k_nn),
        "held-out pairs": world.texts(count, "query_and_neighbors", True, k_nn),
        "dotted database": styled,
        "dotted database, text": styled_text,
        "unconditional": world.unconditional(count, k_nn=k_nn),
    }


@cache
def _held_out_facts(count: int, held_out_pairs: bool) -> Facts:
    """What pictures of ``held_out`` show; of all, or of the pairs never trained on."""
    found: Facts = []
    source = ShapesSource("held_out", 40 * count)
    for index in range(len(source)):
        fact = source[index].attributes
        if not held_out_pairs or (fact["shape"], fact["color"]) in HELD_OUT_PAIRS:
            found.append(fact)
        if len(found) == count:
            return found
    raise AssertionError(f"{len(found)} of {count} pictures found")
