"""Planted models whose truth is known, and what a diagnosis calls them."""
