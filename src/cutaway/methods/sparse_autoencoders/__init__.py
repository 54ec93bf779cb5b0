"""Dictionaries of features: few of many stand for what a model holds at a place."""
