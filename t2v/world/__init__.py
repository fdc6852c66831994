"""A captioned synthetic world: words, pixels and a judge that reads the pixels back."""
