"""LiteRT (TensorFlow Lite): an int8 flatbuffer straight from the integer graph, and how equal its integers are.

Scales are the graph's powers of two. Unsigned 8-bit tensors are int8 with zero-point −128, 16-bit ones int16, biases
int32, kernels int8 with one scale or one per channel. An accumulator with its bias, ReLU and requantize is one
operator; softmax stays in float at the output.

**Where the integers can differ.** graffiti shifts with ties to even. LiteRT multiplies by a scale, and how it rounds
depends on the kernel. With ``r`` the accumulator modulo ``2**s`` (``s`` the right shift), measured over all residues by
``tests/export/test_litert_rounding.py``:

| what computes it | rounding | differs from the graph at | by at most |
|---|---|---|---|
| XNNPACK: ``CONV_2D``, ``DEPTHWISE_CONV_2D``, ``FULLY_CONNECTED`` | float32, half to even | nothing, where ``s <= 15`` or the accumulator is below 2**24 | 0, else 1 step |
| builtin: ``CONV_2D``, ``FULLY_CONNECTED``, int8 | ``/2`` half up, then ``/2**(s-1)`` half up | ``r = half`` (even quotients), ``r = half - 1`` | 1 step |
| builtin: grouped ``CONV_2D``, and of ``DEPTHWISE_CONV_2D`` the last ``channels % 8`` channels, int8 | ``/2`` half up, then ``/2**(s-1)`` half away | ``r = half`` (where away is odd), ``r = half - 1`` (not negative) | 1 step |
| builtin: ``DEPTHWISE_CONV_2D``, the channels before them (``findings/litert_depthwise_by_channel.sh``) | as ``CONV_2D`` | as ``CONV_2D`` | 1 step |
| builtin products, int8, at a scale of ``2**-s * (1 - 2**-24)`` | half up (where the rows above say so: half away), once | ``r = half`` (even quotients; half away: where away is odd) | 1 step; nothing, where the graph rounds half up (depthwise, grouped: and accumulators are not negative) |
| LiteRT for Microcontrollers: products, int8, at that scale | half away, once | the same | 1 step; nothing, where the graph rounds half up and accumulators are not negative |
| builtin, the only ones: ``CONV_2D`` ... on int16 | half up | ``r = half`` (even quotients) | 1 step |
| XNNPACK: ``ADD``, ``SUB``, int8 ``QUANTIZE`` with ``s > 0`` | half up | ``r = half`` (even quotients) | 1 step; written so with ``arithmetic="native"`` only |
| builtin: ``ADD``, ``SUB``, with ``s > 0`` | half away | ``r = half`` (where away is odd) | 1 step; with ``arithmetic="native"`` only |
| any product, sum or ``QUANTIZE`` with ``s <= 0`` | none | nothing | 0 |
| XNNPACK: ``QUANTIZE`` from float32 to int8 | half to even | nothing | 0 |
| builtin: ``QUANTIZE`` from float32 (``findings/litert_quantize_by_position.sh``) | half to even, the last ``size % 8`` elements half away | ties among those (and reals beyond 2**31 steps) | 1 step, at the int8 border only |
| ``ROUND``, ``FLOOR`` in float32, all kernels | half to even, down | nothing | 0 |
| moves, maxima, ``GATHER`` of a table | none | nothing | 0 |

No bias makes half-up rounding half-to-even (which way a tie goes depends on the quotient), so equality is had by
choosing the operators:

1. *Sums and requantizes that round* are depthwise products with weights of one (two taps over the joined operands, or
   one): still int8, and XNNPACK rounds products to even. ``arithmetic="native"`` writes ``ADD``, ``SUB`` and
   ``QUANTIZE`` instead.
2. *Average pools* are depthwise products with rounding down. The 8-bit reciprocal fits no int8 kernel, so the kernel
   holds ``weight`` at the scale ``reciprocal / weight``, and a bias of about half a step turns rounding to nearest into
   rounding down. The pair is proven by trying every sum a window can have (``rounding.pool_parameters``); where there
   is none the pool is computed in float32 with ``FLOOR``. Difference: 0.
3. *Tables* are ``CAST``, ``ADD``, ``GATHER`` with the graph's own table.
4. *What no integer operator of LiteRT holds* (a 16-bit accumulator or leaky ReLU between 8-bit tensors, pools over
   partial windows, broadcasts) is carried by float32 tensors, exactly: every value is proven to be an integer below
   2**24 steps. Such parts agree in every kernel. A leaky ReLU's 31-bit product is tried with all its 2**16 codes: its
   rounded result is equal, or named as one step off.

So with XNNPACK, LiteRT's default on CPUs, every int8 tensor equals the graph's. Without it each rounding product of the
int8 file may be a step off, and what follows inherits that: on 1000 CIFAR-10 images ResNet8 then differs in a fifth of
its integers, by up to 20 steps deep inside, and names another class for 2 to 3 % of the images at the same accuracy.
Where that matters there are two other files:

- ``arithmetic="half_up"``, for a network quantized with ``"int8_half_up"`` or ``"int8_half_up_per_channel"``: the graph
  rounds as the builtin kernels do. Their two roundings (``/2``, then the rest) become one with kernel scales just below
  the powers of two (``rounding.just_below``): the multiplier ``2**31 - 128`` gives back every accumulator below 2**23,
  and larger ones saturate. Sums and requantizes are taps of ``2 * x + 1`` at half the scale, which no tie can hit. Ties
  of negative accumulators go up in some kernels and away from zero in others, so a layer without a ReLU is *lifted*:
  its bias adds 128 steps, which makes every accumulator that does not saturate positive, its tensor has the zero-point
  -128, and a ``RESHAPE``, which copies the bytes, gives them the zero-point 0 again. Int8 throughout; what rounds
  otherwise is computed in float32. The same file is equal in LiteRT for Microcontrollers (``verify(...,
  ["litert:micro"])`` runs it there), as far as that has the operators: it gathers no 16-bit tables. Its ``DEQUANTIZE``
  takes the first scale of a kernel for all channels, so a kernel with a scale for each is stored with the scale one
  where its product is computed in float32, and the channels are scaled behind it.
- ``arithmetic="float32"`` keeps int8 tensors and weights and lets products and sums run in float32 between them, as in
  point 4: equal in every kernel, those for microcontrollers included.

``LiteRTExporter.expected_difference`` names the tensors that may differ and bounds them end to end, for any input.

Measured on x86-64 with ai-edge-litert 2.3 and the portable kernels of tflite-micro (2026-10-23); chip makers' own
kernels (CMSIS-NN and others) may round otherwise. XNNPACK documents the same float32 rounding for its per-channel int8
kernels elsewhere, but nothing here has been run on ARM.
"""

from graffiti.export.litert.exporter import LiteRTExporter

__all__ = ["LiteRTExporter"]
