"""Dictionaries of features, and what is known of each feature."""
