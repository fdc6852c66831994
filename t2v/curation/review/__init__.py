"""Review by hand: clips kept, dropped and captioned by people, on top of what curation decided."""
