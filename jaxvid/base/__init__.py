"""What every other room stands on: errors, what is said, paths, locks, and files that are whole."""
