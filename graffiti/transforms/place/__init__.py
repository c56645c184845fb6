"""float → fakequant: quantizers put in where the published topology has them, scales shared where integers must
meet.
"""
