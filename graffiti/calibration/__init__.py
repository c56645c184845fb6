"""First thresholds from data: ``methods`` (values → threshold), ``data`` (what users pass → arrays), ``calibrate``
(the walk).
"""
