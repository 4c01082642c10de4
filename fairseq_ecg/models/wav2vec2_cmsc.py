"""W2V+CMSC, "local and global" pretraining (Oh et al., 2022, PMLR 174, Section 3).

The network is that of ``ecg_wav2vec2``. The global branch has no parameters: the criterion
``wav2vec2_with_cmsc`` pools ``features``, the encoder's output for the masked input, and compares
the two halves of each recording. So the second name is registered for the same class.
"""

from dataclasses import dataclass

from fairseq.models import register_model

from fairseq_ecg.models.ecg_wav2vec2 import EcgWav2Vec2, EcgWav2Vec2Config


@dataclass
class Wav2Vec2CmscConfig(EcgWav2Vec2Config):
    """The keys of ``ecg_wav2vec2``; 90,883,072 parameters with the paper's values."""


Wav2Vec2Cmsc = register_model("wav2vec2_cmsc", dataclass=Wav2Vec2CmscConfig)(EcgWav2Vec2)
