"""From a config to a trained network: the loop, its step, and all that a step is made of."""
