"""Prompts: signs are read, tokens weighted and blended, words written anew."""
