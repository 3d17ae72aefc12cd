"""A UNet as the steps of a solver use it: what is known beforehand prepared, the rest compiled."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.backends import multiplying
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.models.query_unet import QueryUNet, both_branches
from rdm_batch.models.unet import ContextFeatures, TimeBiases, UNet
from rdm_batch.sampling.evaluations import Evaluations
from rdm_batch.sampling.solver import Predict

_Network = TypeVar("_Network", bound=UNet)


class UNetSteps(Generic[_Network]):
    """Evaluate a UNet at the steps of a solver, and as much of it as each step needs.

    Args:
        unet: The network, on its device and still in float32. Whoever gives it converts it then.
        times: Times of the solver. They are known, so what they contribute is computed here,
            once, and in float32 whatever the precision is.
        evaluations: What is evaluated at every step.
        dtype: Type the network will have.
    """

    def __init__(
        self,
        unet: _Network,
        times: Int64[Tensor, " steps"],
        evaluations: Evaluations,
        dtype: torch.dtype,
    ) -> None:
        self.unet = unet
        self.evaluations = evaluations
        self._dtype = dtype
        with torch.inference_mode(), multiplying():
            self._prepare(times)
        self._predict = unet.predict
        self._predict_leaving_deep = unet.predict_leaving_deep
        self._predict_shallow = unet.predict_shallow

    def compile(self, device: torch.device) -> None:
        """Compile every way of evaluating the network; see ``arithmetic.compiled``."""
        self._predict = compiled(self._predict, device)
        self._predict_leaving_deep = compiled(self._predict_leaving_deep, device)
        self._predict_shallow = compiled(self._predict_shallow, device)

    def take_compiled(self, other: UNetSteps[_Network]) -> None:
        """Use what was compiled of the same network for the steps of another solver."""
        self._predict = other._predict
        self._predict_leaving_deep = other._predict_leaving_deep
        self._predict_shallow = other._predict_shallow

    def begin(
        self,
        context: Float[Tensor, "batch entry dim"],
        branches: bool,
        source: Float[Tensor, "batch channel height width"] | None = None,
    ) -> Predict:
        """Give what predicts noise for a batch.

        Args:
            context: Of the batch, where and in the type the network computes.
            branches: Whether guided steps predict for an all-zero context as well.
            source: Latents of the pictures to edit, of the network's type, which both branches
                see. None: the network is given none.

        Returns:
            Predicts the noise in latents, of the network's type, at a step. Where the step is
            guided with ``branches``, the conditional predictions come first, then the
            unconditional ones. What is returned may be overwritten by the next prediction.
        """
        plain = self.unet.context_features(context)
        both = ContextFeatures(plain.keys_values, guided=True)
        query = self._query(context)
        left: list[Tensor] = []

        def predict(x: Tensor, step: int) -> Tensor:
            guided = branches and self.evaluations.guided[step]
            features = both if guided else plain
            x = x if source is None else torch.cat([x, source], dim=1)
            rows, biases = self._arguments(x, step, guided, query)
            if not self.evaluations.reuses:
                return self._predict(rows, biases, features)
            if not self.evaluations.whole[step]:
                return self._predict_shallow(rows, biases, features, left[0])
            out, deep = self._predict_leaving_deep(rows, biases, features)
            # Memory of its own: a recorded graph overwrites what it gave before.
            left[:] = [deep.clone(memory_format=torch.preserve_format)]
            return out

        return predict

    def _prepare(self, times: Int64[Tensor, " steps"]) -> None:
        """Compute what times alone contribute."""
        biases = [bias.to(self._dtype) for bias in self.unet.time_biases(times)]
        self._time_biases = [
            tuple(bias[step : step + 1] for bias in biases) for step in range(len(times))
        ]

    def _query(self, context: Float[Tensor, "batch entry dim"]) -> Tensor | None:
        """Compute what else of a batch enters with the time."""
        return None

    def _arguments(
        self, x: Tensor, step: int, guided: bool, query: Tensor | None
    ) -> tuple[Tensor, TimeBiases]:
        """Give the latents and what enters with the time, for one or for both branches."""
        return x, self._time_biases[step]


class QueryUNetSteps(UNetSteps[QueryUNet]):
    """Evaluate a UNet whose query enters with the time; see ``UNetSteps``."""

    def _prepare(self, times: Int64[Tensor, " steps"]) -> None:
        """Embed the times; what they contribute depends on the query as well."""
        self._times = self.unet.time_embeddings(times).to(self._dtype)

    def _query(self, context: Float[Tensor, "batch entry dim"]) -> Tensor | None:
        """Project the query of every row."""
        query: Tensor = self.unet.query_embed(context[:, 0])
        return query

    def _arguments(
        self, x: Tensor, step: int, guided: bool, query: Tensor | None
    ) -> tuple[Tensor, TimeBiases]:
        """Double the latents where guided: the branches part at the first residual block."""
        assert query is not None
        if guided:
            x, query = torch.cat([x, x]), both_branches(query)
        return x, self.unet.biases(self._times[step : step + 1], query)
