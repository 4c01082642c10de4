"""One file per criterion; importing the package registers all of them with fairseq.

fairseq imports the tasks and models of a user directory by itself, but not its criterions.
"""

from fairseq_ecg._discover import import_public_modules

import_public_modules(__name__, __path__)
