"""fakequant → integer: thresholds become exponents, weights become codes, and int32 is proven to be enough."""
