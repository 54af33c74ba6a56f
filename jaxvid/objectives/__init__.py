"""What networks are asked: losses, their probabilities, and masked cubes to fill in."""
