"""What methods are measured on: worlds whose truth is known."""
