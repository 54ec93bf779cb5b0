"""The kinds of view as pure data, and how they are written."""
