"""How far the score can be trusted, and what more images are worth."""
