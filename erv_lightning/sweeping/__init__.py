"""Sweeps without an account: W&B's sweep files, searched by W&B's own engine, each trial a run of its own."""
