import importlib.metadata
import subprocess
import sys

import pytest

import tfseq2seq

LOADED = "import sys; print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"


@pytest.mark.parametrize("module", ["tfseq2seq", "tfseq2seq.config"])
def test_importing_the_package_or_its_config_does_not_load_tensorflow(module):
    result = subprocess.run(
        [sys.executable, "-c", f"import {module}; {LOADED}"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", tfseq2seq.__all__)
def test_every_public_name_exists(name):
    assert getattr(tfseq2seq, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sequence2Sequence'"):
        _ = tfseq2seq.Sequence2Sequence


def test_the_installed_version_is_the_packages_own():
    try:
        installed = importlib.metadata.version("tfseq2seq")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tfseq2seq is not installed, only on the path")
    assert installed == tfseq2seq.__version__
