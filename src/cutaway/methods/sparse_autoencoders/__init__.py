"""Dictionaries of features: trained ones, what is measured of them, and what they are held against."""
