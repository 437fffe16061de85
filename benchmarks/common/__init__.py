"""What the benchmarks share: frames and their stamps, labels by the truth, scores."""
