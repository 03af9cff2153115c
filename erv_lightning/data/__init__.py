"""Clips and their annotations: records, decoding, the data module. Knows no model."""
