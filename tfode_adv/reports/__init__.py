"""From records to tables, figures and one HTML page. Nothing but `evaluation` needs TensorFlow."""
