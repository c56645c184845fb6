"""What every number means: formats, rounding, the normative integer ops. numpy only; see ``README.md``."""
