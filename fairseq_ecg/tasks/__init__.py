"""What a run needs, stated as a config; each task registers itself with fairseq."""

from fairseq_ecg._discover import import_public_modules

import_public_modules(__name__, __path__)
