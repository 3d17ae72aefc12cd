"""Fields that came to a stored model after files of it had been written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, model_serializer


class LaterFields(BaseModel):
    """Leave fields that came later out of what is written, while they say nothing.

    What was stored before there was such a field keeps its text, and with it its digest.

    Attributes:
        later: Their names; each has a default.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_silent_fields(self, serialize: Callable[[Any], Any]) -> dict[str, Any]:
        written: dict[str, Any] = serialize(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                written.pop(name, None)
        return written
