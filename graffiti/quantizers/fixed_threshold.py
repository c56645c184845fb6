"""``FixedThreshold``: calibrated, not trained."""

from __future__ import annotations

import keras

from graffiti.quantizers.log_threshold import LogThreshold


@keras.saving.register_keras_serializable(package="graffiti")
class FixedThreshold(LogThreshold):
    """Fake-quantizer whose threshold stays where calibration put it.

    Forward as ``log_threshold_quantize``. Backward: ``dL/dx = g`` where the rounded value is in range, else 0; the
    threshold is not a trainable variable and gets no gradient. The published "retrain weights only" runs use it.

    Args: as ``Quantizer``.

    References: Jain et al., arXiv 1903.08066, section 5.
    """

    trains_threshold = False
