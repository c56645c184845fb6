"""C99 export: one ``.c``/``.h`` pair per network over a small runtime. No heap, no floats, no dependencies."""
