"""Runs integer graphs natively: ``program`` compiles a graph to bytes, ``library`` loads the kernels, ``runner``
runs them.
"""
