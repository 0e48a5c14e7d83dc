"""Experiments: variants of a recipe over seeds, evaluated and set beside a paper's figures."""
