"""Graph → graph, one pass per file; ``pipelines.py`` holds the order. Knows neither Keras nor TensorFlow."""
