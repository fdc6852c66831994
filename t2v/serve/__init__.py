"""A server of OpenAI's endpoint for videos over a queue: it holds no model and imports no torch."""
