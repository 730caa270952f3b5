"""The commands predict and serve, and how predictions are written."""
