"""What the readers of this folder raise; whoever calls them knows the file's name and its use."""

from __future__ import annotations


class FormatError(ValueError):
    """Say what is wrong with a file, as the end of a sentence that begins with it."""
