"""The HTML page about a curation, and the data card for model cards."""
