"""The KNN-Diffusion head over latents: RDM's, with a role for the query.

Sheynin et al. 2023 (arXiv:2204.02849), with the continuous backbone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import KnnContinuousNetworks, RdmNetworks
from rdm_batch.models.query_unet import QueryUNet, both_branches
from rdm_batch.sampling.solver import Predict


class KnnContinuousHead(RdmHead):
    """Draw latents given a query and its neighbors, and decode them; see ``RdmHead``.

    The context is the query's embedding, then those of its neighbors.
    """

    _unet: QueryUNet

    def _prepare(self, networks: RdmNetworks, times: Int64[Tensor, " steps"]) -> None:
        """Embed the times; what they contribute depends on the query as well."""
        assert isinstance(networks, KnnContinuousNetworks)
        self._times = networks.unet.time_embeddings(times).to(self._dtype)

    def _predictor(self, context: Float[Tensor, "batch entry dim"]) -> Predict:
        context = context.to(self._device, self._dtype)
        features = self._unet.context_features(context, self._guided)
        query = self._unet.query_embed(context[:, 0])
        if self._guided:
            query = both_branches(query)

        def predict(x: Tensor, step: int) -> Tensor:
            # The branches part at the first residual block, where the query enters.
            rows = x.to(self._dtype)
            rows = torch.cat([rows, rows]) if self._guided else rows
            biases = self._unet.biases(self._times[step : step + 1], query)
            return self._guide(self._predict(rows, biases, features))

        return predict
