"""What is kept of many activations: reducers that see each batch once, and what a training leaves behind."""
