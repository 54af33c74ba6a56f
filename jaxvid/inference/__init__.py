"""From a network and videos to answers: tests, predictions, features, explanations."""
