"""What choosing and building cost: time, memory, many frames."""
