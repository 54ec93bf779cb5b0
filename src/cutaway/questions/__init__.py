"""What is asked of a model, and what there is to compare the answer with."""
