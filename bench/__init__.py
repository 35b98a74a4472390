"""Benchmarks: each answers one written question and prints one JSON line with the counts that prove it right."""
