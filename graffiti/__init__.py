"""graffiti: a Keras 3 model in, fixed point out, proven equal bit for bit.

Importing this package registers every graffiti class with Keras, so that saved models load with nothing but
``import graffiti``. It computes nothing and loads no compiled library.
"""

# Keras first: importing tensorflow_model_optimization before it may switch tf.keras to Keras 2
import keras as _keras  # noqa: F401

from graffiti import callbacks, data, exceptions, files, layers, quantizers, recipes, schemes, targets, tfmot
from graffiti.api import calibrate, quantize, to_integer
from graffiti.config import QuantizerSpec, ReportLine, Rule, Scheme
from graffiti.cost import cost
from graffiti.exceptions import AccumulatorOverflow, ExportError, TargetError, Unavailable
from graffiti.html_report import report
from graffiti.inspection import Inspection, inspect
from graffiti.integer_graph import IntegerGraph
from graffiti.low_bit.convert import quantize_training, strip
from graffiti.low_bit.optimizer import LowBitOptimizer
from graffiti.optimizers import ALT
from graffiti.reports import QuantizationReport
from graffiti.targets import TargetProfile
from graffiti.training_config import TensorSpec, TrainingScheme
from graffiti.verification import VerificationReport, verify

__version__ = "0.1.0"

__all__ = [
    "ALT", "AccumulatorOverflow", "ExportError", "Inspection", "IntegerGraph", "LowBitOptimizer", "QuantizationReport",
    "QuantizerSpec", "ReportLine", "Rule", "Scheme", "TargetError", "TargetProfile", "TensorSpec", "TrainingScheme",
    "Unavailable",
    "VerificationReport", "calibrate", "callbacks", "cost", "data", "exceptions", "files", "inspect", "layers",
    "quantize", "quantize_training",
    "quantizers", "recipes", "report", "schemes", "strip", "targets", "tfmot", "to_integer", "verify",
]
