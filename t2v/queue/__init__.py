"""A durable queue of videos to make: a folder of job files, and the workers that take them."""
