"""One file per family: its networks, variants, names of PyTorch's keys, and published rows."""
