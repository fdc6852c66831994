"""Ways to tune a saved pipeline: adapters, new words, prior preservation."""
