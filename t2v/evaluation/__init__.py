"""Evaluation of models: metrics with an interval, a ceiling and a chance level."""
