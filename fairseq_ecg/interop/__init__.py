"""Foreign checkpoints in and out; no other part of the package knows foreign names.

A converter is a module with two functions: ``stand_ins(names)`` gives inert classes for those of a
file's own classes that it knows, and ``convert(raw)`` gives the parts of a ``Checkpoint``, or None
if the layout is not its own.
"""

from fairseq_ecg.interop import fairseq_signals

CONVERTERS = (fairseq_signals,)
