"""How fast networks are on this machine: forward, training step, and from a video to labels."""
