"""What other tools make of what mlpsf writes for them."""
