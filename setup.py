"""Packaging of fairseq_ecg: dependencies, extras, console scripts and the data along."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

HERE = Path(__file__).parent

# fairseq-fixed is the build of fairseq's main branch that imports on Python >= 3.11. Its own pins
# of hydra-core and omegaconf agree with these; they stand here because presets depend on them.
REQUIREMENTS = [
    "fairseq-fixed==0.12.3.1",
    "hydra-core>=1.3.2,<1.4",
    "omegaconf>=2.3,<2.4",
    "torch>=2.10",  # older torch has published holes in weights_only loading
    "numpy>=1.26",
    "scipy>=1.11",
    "pandas>=2.1",
    "pyarrow>=15",
    "scikit-learn>=1.4",
    "wfdb>=4.3",
    "soundfile>=0.12",
    "matplotlib>=3.8",
    "safetensors>=0.4.3",
    "tqdm>=4.66",
    "setuptools>=77",  # fairseq's registries need it at import with some installers
]

HDF5 = ["h5py>=3.10"]
HUB = ["huggingface_hub>=1.0"]
EXPORT = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22", *HUB]

EXTRAS = {
    "test": ["pytest==9.2.0", "pytest-xdist==3.8.0", "ruff==0.17.5", *HDF5, *EXPORT],
    "hdf5": HDF5,  # the corpus code-15
    "export": EXPORT,  # fairseq-ecg export: ONNX, and the Hugging Face hub
    "hub": HUB,  # fairseq-ecg pull
    "umap": ["umap-learn>=0.5.7"],  # pictures of embeddings
    "docs": ["mkdocs>=1.6"],
    "cluster": ["dask[distributed]>=2025.1", "hydra-submitit-launcher>=1.2"],
    "tensorboard": ["tensorboard>=2.16"],
}

# examples/ and manifests/ stand at the top of the checkout and inside the package in a wheel.
DATA_PACKAGES = {"fairseq_ecg.examples": "examples", "fairseq_ecg.manifests": "manifests"}

setup(
    name="fairseq-ecg",
    version="0.1.0",
    description="Pretrain, fine-tune, compare and ship ECG models with stock fairseq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    license="MIT",
    packages=[
        *find_packages(include=["fairseq_ecg", "fairseq_ecg.*"]),
        *find_namespace_packages(include=["hydra_plugins", "hydra_plugins.*"]),
        *DATA_PACKAGES,
    ],
    package_dir=DATA_PACKAGES,
    package_data={name: ["**/*"] for name in DATA_PACKAGES},
    py_modules=["fairseq_ecg_launch"],
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "fairseq-ecg = fairseq_ecg_launch:main",
            "fairseq-hydra-train = fairseq_ecg_launch:hydra_train",
        ]
    },
)
