"""Benchmarks: time, memory and utilisation of the pipeline, and the speed of curation."""
