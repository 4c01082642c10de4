"""One file per optimizer; importing the package registers all of them with fairseq."""

from fairseq_ecg._discover import import_public_modules

import_public_modules(__name__, __path__)
