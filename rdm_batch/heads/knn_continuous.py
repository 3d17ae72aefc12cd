"""The KNN-Diffusion head over latents: RDM's, with a role for the query.

Sheynin et al. 2023 (arXiv:2204.02849), with the continuous backbone.
"""

from __future__ import annotations

from typing import Any, ClassVar

from rdm_batch.heads.rdm import RdmHead
from rdm_batch.heads.unet_steps import QueryUNetSteps, UNetSteps


class KnnContinuousHead(RdmHead):
    """Draw latents given a query and its neighbors, and decode them; see ``RdmHead``.

    The context is the query's embedding, then those of its neighbors.
    """

    _steps_class: ClassVar[type[UNetSteps[Any]]] = QueryUNetSteps
