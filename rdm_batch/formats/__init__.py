"""Files that others wrote: nothing in them runs, and what reading them costs is bounded."""
