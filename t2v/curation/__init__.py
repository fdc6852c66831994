"""From footage to clips: stages that score, tag and drop, and the driver that runs them."""
