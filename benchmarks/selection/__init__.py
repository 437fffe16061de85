"""How well the stars are chosen."""
