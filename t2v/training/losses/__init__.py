"""Losses that need a network of their own."""
