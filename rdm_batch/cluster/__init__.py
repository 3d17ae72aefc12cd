"""Where work runs: the one pool, in this process or on Ray. The only home of ray."""
