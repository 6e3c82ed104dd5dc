"""Rates, tables, charts and the page they stand on; knows no records and no models."""
