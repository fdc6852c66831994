"""What a command will take in memory, time and disk, told before it is spent."""
