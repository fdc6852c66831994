"""Near copies of films: fingerprints, what selects likely pairs, and how alike a pair is."""
