"""Recipes for enhancement."""
