"""What a run takes on chips that need not be here: whether it fits, and what it is bound by."""
