"""Visualization: every picture that the package makes."""
