"""Open a model, name its parts, watch and change them. The only code that touches hooks and module paths."""
