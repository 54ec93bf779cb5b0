"""The atlas of the field."""
