"""graffiti: a Keras 3 model in, fixed point out, proven equal bit for bit.

Importing this package registers every graffiti class with Keras, so that saved models load with nothing but
``import graffiti``. It computes nothing and loads no compiled library.
"""

import keras as _keras  # noqa: F401 - Keras first: importing tensorflow_model_optimization before it may switch tf.keras to Keras 2

from graffiti import callbacks, layers, quantizers, schemes, tfmot
from graffiti.api import QuantizationReport, calibrate, quantize, to_integer
from graffiti.config import QuantizerSpec, ReportLine, Rule, Scheme
from graffiti.integer_graph import IntegerGraph
from graffiti.optimizers import ALT
from graffiti.transforms.lower.prove_accumulators import AccumulatorOverflow
from graffiti.verification import VerificationReport, verify

__version__ = "0.1.0"

__all__ = [
    "ALT", "AccumulatorOverflow", "IntegerGraph", "QuantizationReport", "QuantizerSpec", "ReportLine", "Rule", "Scheme",
    "VerificationReport", "calibrate", "callbacks", "layers", "quantize", "quantizers", "schemes", "tfmot",
    "to_integer", "verify",
]
