"""How hard the shards of a database are searched."""

from __future__ import annotations

from dataclasses import dataclass

from rdm_batch.retrieval.database import DatabaseShard
from rdm_batch.specs.database import IndexSettings, Queries


@dataclass(frozen=True)
class SearchEffort:
    """Say how hard shards are searched; what is None is as built for the kind of query.

    Attributes:
        queries: What is searched with.
        leaves_to_search: Partitions scanned per query of a partitioned shard.
        reorder: Candidates a partitioned shard rescores per query.
        exactly: Open no index: every search is an exact scan.
    """

    queries: Queries = "pictures"
    leaves_to_search: int | None = None
    reorder: int | None = None
    exactly: bool = False

    def settings_of(self, shard: DatabaseShard) -> IndexSettings:
        """Resolve the index settings of a shard to those it is searched with."""
        tuned = shard.search_for(self.queries)
        effort = {
            "leaves_to_search": self.leaves_to_search or (tuned and tuned.leaves_to_search),
            "reorder": self.reorder or (tuned and tuned.reorder),
        }
        changed = {name: value for name, value in effort.items() if value}
        return IndexSettings.model_validate(shard.index.model_dump() | changed).resolve(shard.rows)
