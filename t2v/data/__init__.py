"""Datasets: files on disk become batches."""
