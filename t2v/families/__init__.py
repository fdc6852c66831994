"""Other packages' video models: a record for each family, and the generator that reads it."""
