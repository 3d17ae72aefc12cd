"""The kernel that draws tokens on a CPU, compiled here for a network of two narrow blocks."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rdm_batch.errors import ClusterError
from rdm_batch.heads import native_code, native_tokens
from rdm_batch.heads.native_tokens import NativeTransformer, can_draw_natively
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.models.networks import RarmNetworks, load_networks
from rdm_batch.models.packed import can_pack
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.specs.families import RarmArchitecture
from tests.compare import relative_error
from tests.tiny_heads import TINY_RARM, random_weights
from tests.tolerances import REORDERED_REL, ROUNDED_REL

# Widths of the kernel's vectors: 3 heads, so that threads have parts of different sizes, and a
# hidden layer of more inputs than it multiplies at a time (384 of 192, and 96 are half of them).
_SIZES = {
    "vocabulary_out": 48,
    "vocabulary_in": 50,
    "num_heads": 3,
    "head_channels": 32,
    "num_positions": 36,
}
ARCHITECTURE: RarmArchitecture = TINY_RARM.model_copy(
    update={
        "transformer": TINY_RARM.transformer.model_copy(update=_SIZES),
        "start_token": 49,
    }
)


@pytest.fixture(scope="module", autouse=True)
def _kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile it once, into a folder of these tests, and take it for networks this narrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("code")))
        patch.setattr(native_tokens, "_WIDE", 1)
        yield
    native_code.native_library.cache_clear()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _transformer() -> CausalTransformer:
    networks = load_networks(ARCHITECTURE, random_weights(ARCHITECTURE))
    assert isinstance(networks, RarmNetworks)
    return networks.transformer.eval().requires_grad_(False)


def _inputs(samples: int, neighbors: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    context = torch.randn(samples, neighbors, 6, generator=generator)
    return context, torch.randint(50, (samples, 36), generator=generator)


def _logits(
    transformer: CausalTransformer | NativeTransformer,
    inputs: tuple[Tensor, Tensor],
    guided: bool = True,
) -> Tensor:
    context, tokens = inputs
    generation = transformer.start(context, guided)
    steps = [transformer.next_logits(tokens[:, i], i, generation) for i in range(36)]
    return torch.stack(steps)


@pytest.fixture(params=["tiles", "no tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply bfloat16 as this CPU does it, and as one does that has no AMX."""
    if request.param == "no tiles":
        monkeypatch.setattr(native_tokens, "_BFLOAT16", ("-DBFLOAT16", "-DNO_TILES"))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("samples", "neighbors", "guided"),
    [(1, 3, True), (8, 4, True), (9, 2, True), (17, 20, False)],
)
def test_in_bfloat16_it_is_closer_to_the_exact_logits_than_the_transformer_is(
    samples: int, neighbors: int, guided: bool
) -> None:
    transformer = _transformer().bfloat16()
    inputs = _inputs(samples, neighbors)
    inputs = (inputs[0].bfloat16(), inputs[1])
    exact = copy.deepcopy(transformer).double()
    expected = _logits(exact, (inputs[0].double(), inputs[1]), guided)
    plain = relative_error(_logits(transformer, inputs, guided).float(), expected)
    found = relative_error(_logits(NativeTransformer(transformer), inputs, guided), expected)
    assert found < plain
    assert found < ROUNDED_REL


@pytest.mark.usefixtures("tiles")
def test_in_bfloat16_logits_follow_from_the_sample_alone() -> None:
    _check_that_logits_follow_from_the_sample(torch.bfloat16)


@pytest.mark.parametrize("guided", [True, False])
# One row, a tile and a part of one; neighbors that are multiplied beforehand, and too many to.
@pytest.mark.parametrize(("samples", "neighbors"), [(1, 3), (9, 2), (8, 5), (11, 20)])
def test_it_gives_the_logits_of_the_transformer(samples: int, neighbors: int, guided: bool) -> None:
    assert native_tokens.folds(samples, neighbors, 32) == (samples * neighbors < 33)
    transformer = _transformer()
    inputs = _inputs(samples, neighbors)
    exact = copy.deepcopy(transformer).double()
    expected = _logits(exact, (inputs[0].double(), inputs[1]), guided)
    plain = relative_error(_logits(transformer, inputs, guided), expected)
    found = relative_error(_logits(NativeTransformer(transformer), inputs, guided), expected)
    assert found < REORDERED_REL
    assert found < 3 * plain


def test_logits_follow_from_the_sample_alone() -> None:
    _check_that_logits_follow_from_the_sample(torch.float32)


def _check_that_logits_follow_from_the_sample(dtype: torch.dtype) -> None:
    native = NativeTransformer(_transformer().to(dtype))
    context, tokens = _inputs(10, 3)
    context = context.to(dtype)
    torch.set_num_threads(1)
    alone = _logits(native, (context, tokens))
    torch.set_num_threads(3)
    assert torch.equal(_logits(native, (context, tokens)), alone)
    for part in (slice(0, 1), slice(2, 7)):
        conditional, unconditional = _logits(native, (context[part], tokens[part])).chunk(2, 1)
        assert torch.equal(conditional, alone[:, :10][:, part])
        assert torch.equal(unconditional, alone[:, 10:][:, part])


def test_a_head_draws_with_it_the_tokens_of_the_plain_head() -> None:
    def head(compile: bool) -> RarmHead:
        networks = load_networks(ARCHITECTURE, random_weights(ARCHITECTURE))
        assert isinstance(networks, RarmNetworks)
        return RarmHead(networks, TokenSampler(top_k=9), 2.0, compile=compile)

    plain, native = head(False), head(True)
    assert native._native is not None
    assert native._loop is None
    # What the kernel reads is not kept twice.
    assert not any(hasattr(block, "ff") for block in native._transformer.blocks)
    for samples in (2, 5, 2):
        context, _ = _inputs(samples, 3)
        uniform = torch.rand(samples, 36, dtype=torch.float64)
        drawn, expected = (one.draw_tokens(context, uniform) for one in (native, plain))
        assert torch.equal(drawn.tokens, expected.tokens)
        assert torch.equal(drawn.failed_at, expected.failed_at)
        assert len(drawn.tokens.unique()) > 9


def test_a_batch_takes_the_memory_of_the_one_before_and_of_no_other() -> None:
    native = NativeTransformer(_transformer())
    inputs, fewer = _inputs(4, 3), _inputs(2, 3)
    expected, of_fewer = _logits(native, inputs), _logits(native, fewer)
    begun = native.start(inputs[0], guided=True)
    # Other numbers are left there by what is drawn meanwhile.
    beside = native.start(inputs[0].flip(0), guided=True)
    steps = []
    for position in range(36):
        steps.append(native.next_logits(inputs[1][:, position], position, begun))
        native.next_logits(inputs[1][:, 35 - position], position, beside)
    assert torch.equal(torch.stack(steps), expected)
    assert begun.kept[0].data_ptr() != beside.kept[0].data_ptr()
    of_beside = beside.kept[0].data_ptr()
    del beside
    again = native.start(fewer[0], guided=True)
    assert again.kept[0].data_ptr() == of_beside
    del again, begun
    assert torch.equal(_logits(native, fewer), of_fewer)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU packs no bfloat16")
def test_a_head_in_bfloat16_draws_with_it_whatever_else_multiplies_there() -> None:
    networks = load_networks(ARCHITECTURE, random_weights(ARCHITECTURE))
    assert isinstance(networks, RarmNetworks)
    head = RarmHead(networks, TokenSampler(top_k=9), 2.0, precision="bfloat16", compile=True)
    assert head._native is not None
    context, _ = _inputs(5, 3)
    uniform = torch.rand(5, 36, dtype=torch.float64)
    ids = torch.arange(36).view(1, 36) % 4
    # The decoder's products may use the same registers of the CPU.
    before, drawn = head.decode(ids), head.draw_tokens(context, uniform).tokens
    assert torch.equal(head.decode(ids), before)
    assert torch.equal(head.draw_tokens(context[3:], uniform[3:]).tokens, drawn[3:])
    assert len(drawn.unique()) > 9


def test_a_sample_that_is_not_finite_is_found() -> None:
    weights = random_weights(ARCHITECTURE)
    weights["transformer.proj_in.weight"][:40] = torch.inf
    networks = load_networks(ARCHITECTURE, weights)
    assert isinstance(networks, RarmNetworks)
    head = RarmHead(networks, TokenSampler(), 2.0, compile=True)
    uniform = torch.linspace(0, 0.99, 4 * 36, dtype=torch.float64).view(4, 36)
    drawn = head.draw_tokens(_inputs(4, 3)[0], uniform)
    # At the position after the first code whose embedding is infinite.
    for tokens, failed_at in zip(drawn.tokens.tolist(), drawn.failed_at.tolist(), strict=True):
        first = next((i for i, token in enumerate(tokens) if token < 40), 35)
        assert failed_at == (first + 1 if first < 35 else -1)
    assert (drawn.failed_at >= 0).any()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {torch.float32, torch.bfloat16}),
        ({"num_positions": 35}, {torch.float32, torch.bfloat16}),
        ({"head_channels": 16}, {torch.float32}),
        ({"head_channels": 8}, set()),
    ],
)
def test_networks_in_whole_vectors_are_drawn_from(
    changed: dict[str, int], expected: set[torch.dtype]
) -> None:
    network = CausalTransformer(ARCHITECTURE.transformer.model_copy(update=changed))
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    assert {kind for kind in kinds if can_draw_natively(network.to(kind))} == expected


def test_a_system_without_the_registers_of_amx_gets_the_kernel_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Refused(ctypes.CDLL):
        def __init__(self) -> None:
            self.may_multiply = lambda: 0

    def library(source: Path, defined: tuple[str, ...] = ()) -> Refused:
        asked.append(defined)
        return Refused()

    monkeypatch.setattr(native_tokens, "native_library", library)
    native_tokens._library(torch.bfloat16)
    assert asked == [("-DBFLOAT16",), ("-DBFLOAT16", "-DNO_TILES")]


def test_a_compiler_that_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho kernel.cpp:1:2: error: no such thing >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    native_code.native_library.cache_clear()
    with pytest.raises(ClusterError, match=r"does not compile token_kernel\.cpp: .*no such thing"):
        native_code.native_library(native_tokens.SOURCE)


def test_a_folder_that_machines_share_keeps_a_library_for_each_kind_of_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    for kind in ("old", "new", "old"):
        monkeypatch.setattr(native_code, "kind_of_code", lambda kind=kind: kind)
        native_code.native_library.cache_clear()
        assert native_code.native_library(source).one() == 1
    assert len(list((tmp_path / "code/native").glob("*.so"))) == 2


def test_the_kernel_is_where_the_package_is() -> None:
    assert native_tokens.SOURCE.is_file()
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"heads/*.cpp", "heads/*.h"' in declared
