"""Metadata of the distribution; settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
SOURCE = (HERE / "tfseq2seq" / "__init__.py").read_text("utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', SOURCE, re.M).group(1)
PACKAGES = ["tfseq2seq", "pipelines", "serving"]

AUDIO = ["soundfile>=0.12"]  # FLAC, Ogg and MP3 (BSD-3-Clause; its wheels carry libsndfile, LGPL-2.1)
# scipy: chi-squared tests of drawn tokens; trustme: certificates for tests of TLS; pyyaml, jsonschema,
# check-jsonschema: of what serving-config writes
TEST = [
    *AUDIO, "pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "scipy>=1.13", "trustme>=1.2", "pyyaml>=6",
    "jsonschema>=4.23", "check-jsonschema>=0.33"]
# Brings some 300 MB, and protobuf down to 6; what else is installed works with it.
BEAM = ["apache-beam>=2.77,<3"]

setup(
    name="tfseq2seq",
    version=VERSION,
    description="Sequence-to-sequence learning on TensorFlow 2 and Keras 3, from pairs to a served model",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[*PACKAGES, *(f"{package}.*" for package in PACKAGES)]),
    package_data={"pipelines": ["recipes/*.toml"], "serving": ["playground/*", "tensorflow_serving/templates/*"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "tensorflow-text>=2.21,<2.22",
        "tensorflow-serving-api>=2.21,<2.22",
        "tensorboard>=2.20",
        "grpcio>=1.74,<2",
        "grpcio-health-checking>=1.74,<2",
        "grpcio-reflection>=1.74,<2",
        "h11>=0.16,<1",
        "prometheus-client>=0.21",
        "protobuf>=6.31.1,<8",
        "numpy>=1.26",
        "sentencepiece>=0.2",
        "safetensors>=0.5",
        "sacrebleu>=2.4",
        "jiwer>=4",
        "rouge-score>=0.1.2",
        "rapidfuzz>=3.9",
        "pydantic>=2.7",
        "typer>=0.16",
        "rich>=13",
        "matplotlib>=3.8",
    ],
    extras_require={"audio": AUDIO, "beam": BEAM, "test": TEST, "dev": [*TEST, "ruff>=0.9", "mypy>=1.14"]},
    entry_points={"console_scripts": ["tfseq2seq = tfseq2seq.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
