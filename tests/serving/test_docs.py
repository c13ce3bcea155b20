"""The calls that docs/serving.md shows work as they stand there, at other addresses."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from google.protobuf import json_format
from tensorflow_serving.apis import predict_pb2

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
CLIENTS = TEXT.partition("## Clients\n")[2].partition("\n## Playground")[0]
PYTHON = re.findall(r"```python\n(.*?)```", CLIENTS, re.S)
CURL = re.findall(r"^curl .*$", CLIENTS, re.M)


def moved(text, server):
    """With the addresses of a server that runs."""
    return text.replace("http://127.0.0.1:8501", server.rest_address).replace("127.0.0.1:8500", server.address)


@pytest.mark.parametrize("number", range(3))
def test_the_python_calls_run(number, server):
    names = {"__name__": "shown"}
    exec(compile(moved(PYTHON[number], server), "docs/serving.md", "exec"), names)
    if "rows" in names:
        assert [row[0].text for row in names["rows"]] == [f"LINE {number}." for number in range(100)]


@pytest.mark.parametrize("number", range(4))
def test_the_curl_calls_are_answered(number, server):
    command = shlex.split(moved(CURL[number], server))
    answer = subprocess.run([*command, "--fail"], check=True, capture_output=True, text=True).stdout
    assert ("AVAILABLE", "signature_def", "HOW ARE YOU?", "WHOW ARE YOU?")[number] in answer


def test_nothing_shown_is_left_out():
    assert (len(PYTHON), len(CURL)) == (3, 4)


def test_the_body_shown_for_grpcurl_is_a_request():
    body = re.search(r"grpcurl -plaintext -d '(.*?)' 127", CLIENTS).group(1)
    request = json_format.Parse(body, predict_pb2.PredictRequest())
    assert request.inputs["text"].string_val[0] == b"How are you?"
