"""How good a model is: figures with an interval, a ceiling and a chance level."""
