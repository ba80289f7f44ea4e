"""Recipes for generation."""
