"""Pipelines: text in, video out."""
