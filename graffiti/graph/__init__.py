"""The graph: one type, the table of ops, text form, verifier, interpreters. It knows neither Keras nor TensorFlow."""
