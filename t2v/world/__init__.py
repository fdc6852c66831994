"""A captioned synthetic world: grammar, pixels, and an oracle that classifies the pixels."""
