"""Small models that need no download: tiny random ones for tests, trained ones for demonstrations."""
