"""What every kind of training shares, and one file per kind."""
