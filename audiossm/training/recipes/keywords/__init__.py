"""Recipes for keywords."""
