"""Numbers over measurements: indicators of attack failure, the verdict, detection rates. Knows no model."""
