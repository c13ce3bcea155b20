"""What TensorFlow's libraries say on every start is left out, and nothing else."""

import os
import subprocess
import sys

FAKE = r'''
import os, types
os.write(2, b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795861218.997382   32079 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795861219.010708   32079 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)
""")
config = types.SimpleNamespace(list_physical_devices=lambda kind: os.write(2, b"F0000 a real fault\n"))
'''


def said(tmp_path, code, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, check=True).stderr


def test_what_is_usual_is_left_out_and_a_fault_is_not(tmp_path):
    (tmp_path / "tensorflow.py").write_text(FAKE)
    code = (
        "import glob; glob.glob = lambda path: []; "
        "from tfseq2seq.quiet import import_tensorflow; import_tensorflow()")
    assert said(tmp_path, code, TF_CPP_MIN_LOG_LEVEL="3") == "F0000 a real fault\n"
    assert said(tmp_path, code, TF_CPP_MIN_LOG_LEVEL="0") == ""  # nothing is imported before its time
    with_gpu = code.replace("[]", "['/dev/nvidia0']") + "; import tensorflow"
    assert "oneDNN" in said(tmp_path, with_gpu, TF_CPP_MIN_LOG_LEVEL="3")


def test_a_command_says_nothing_on_a_machine_without_a_gpu(tmp_path):
    code = (
        "import sys; sys.argv = ['tfseq2seq', 'describe', 'pipelines/recipes/seed.toml']; "
        "import glob; glob.glob = lambda path: []; from tfseq2seq.cli import main; main()")
    assert "0000 00:00:" not in said(tmp_path, code.replace("main()", "sys.stdout = sys.stderr; main()"))
