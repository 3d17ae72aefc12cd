"""A job from its spec to a committed sample set."""
