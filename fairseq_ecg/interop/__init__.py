"""Foreign checkpoints in and out; no other part of the package knows foreign names.

A converter is a module with two functions: ``stand_ins(names)`` gives inert classes for those of a
file's own classes that it knows, and ``convert(raw, kind)`` gives the parts of a ``Checkpoint``, or
None if the layout is not its own. A writer's ``export(parts)`` turns such parts into a file of its
layout.
"""

from fairseq_ecg.interop import fairseq_signals, fairseq_signals_export

CONVERTERS = (fairseq_signals,)
WRITERS = {fairseq_signals.FORMAT: fairseq_signals_export}
KINDS = fairseq_signals.KINDS
