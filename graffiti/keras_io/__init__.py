"""Between Keras models and graphs."""
