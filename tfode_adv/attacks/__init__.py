"""Attacks, and where their gradients come from."""
