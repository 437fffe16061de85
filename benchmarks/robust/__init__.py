"""What mlpsf does with whatever it is given."""
