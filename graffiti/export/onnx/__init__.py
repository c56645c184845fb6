"""ONNX and QONNX: one lowering to float tensors that hold ``code * 2**exponent`` exactly, two ways to write a
quantizer.
"""
