"""Explanations become the sentences that a verifier learns from: cut, labelled by a teacher, thinned and split.

The command is `python -m erv_lightning verifier build-data`; `build.build` is the same from Python.
"""
