"""The tasks of training, one a file."""
