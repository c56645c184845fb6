"""The linear products that low-bit training quantizes, as geometry: what is multiplied with what in the three
passes.
"""

from __future__ import annotations

from graffiti.low_bit.products.base import Product
from graffiti.low_bit.products.convolution import ConvolutionProduct, DepthwiseProduct, Padding, TransposedProduct
from graffiti.low_bit.products.dense import EinsumProduct, MatrixProduct

__all__ = [
    "ConvolutionProduct", "DepthwiseProduct", "EinsumProduct", "MatrixProduct", "Padding", "Product",
    "TransposedProduct"
]
