"""The model that ships: made, taken apart, taught further."""
