"""Whether what is made today is what was accepted: runs, their history, gates, baselines."""
