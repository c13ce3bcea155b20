"""The REST API, asked with Python's own HTTP client and with bare sockets."""

import asyncio
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import http_server, servables
from serving.errors import ServerError
from serving.http_server import HttpResponse, HttpServer
from serving.server import EmbeddedServer
from serving.settings import Limits, ServedModel

BASE = "/v1/models/tfseq2seq"


@pytest.fixture(scope="module")
def server(small):
    models = [ServedModel(name="tfseq2seq", folder=small, versions="all", labels={"stable": 1})]
    with EmbeddedServer(
        models=models, poll_seconds=0, rest_port=0, limits=Limits(max_request_bytes=20_000, max_waiting=0), workers=2
    ) as running:
        yield running


@pytest.fixture
def ask(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)

    def send(method, path, body=None, **headers):
        body = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read(), response

    def as_json(*args, **kwargs):
        status, body, _ = send(*args, **kwargs)
        return status, json.loads(body)

    as_json.plain = send
    yield as_json
    connection.close()


def test_rows_are_answered_in_rows(ask):
    assert ask("POST", f"{BASE}:predict", {"instances": ["a", "é", {"b64": "YmI="}]}) == (200, {"predictions": [
        {"text": ["a@2"], "score": [-1.0]}, {"text": ["é@2"], "score": [-1.0]}, {"text": ["bb@2"], "score": [-2.0]}]})


def test_columns_are_answered_in_columns(ask):
    assert ask("POST", f"{BASE}/versions/1:predict", {"inputs": {"text": ["a", "b"]}}) == (
        200, {"outputs": {"text": [["a@1"], ["b@1"]], "score": [[-1.0], [-1.0]]}})
    assert ask("POST", f"{BASE}/labels/stable:predict", {"inputs": ["a"]})[1]["outputs"]["text"] == [["a@1"]]
    assert ask("POST", f"{BASE}:predict", {"inputs": []}) == (200, {"outputs": {"text": [], "score": []}})


def test_another_signature_with_several_inputs_and_one_output(ask):
    rows = [{"text": "ab", "times": 2}, {"text": "c", "times": 3}]
    assert ask("POST", f"{BASE}:predict", {"signature_name": "repeat", "instances": rows}) == (
        200, {"predictions": ["abab", "ccc"]})


def test_scores_that_json_has_not_are_written_as_tensorflow_serving_writes_them(ask):
    status, body, _ = ask.plain("POST", f"{BASE}:predict", {"instances": ["nan", ""]})
    assert (status, body) == (
        200, b'{"predictions": [{"score": [NaN], "text": ["nan@2"]}, {"score": [-Infinity], "text": ["@2"]}]}\n')


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", f"{BASE}:predict", "", 400, "JSON Parse error: The document is empty"),
        ("POST", f"{BASE}:predict", "[]", 400, "JSON Value: [] Is not object"),
        ("POST", f"{BASE}:predict", {"inputs": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: string"),
        (
            "POST", f"{BASE}:predict", {"signature_name": "x", "inputs": []}, 400,
            'Serving signature name: "x" not found in signature def',
        ),
        (
            "POST", f"{BASE}/versions/9:predict", {"inputs": ["a"]}, 404,
            "Servable not found for request: Specific(tfseq2seq, 9)",
        ),
        ("POST", "/v1/models/no:predict", {"inputs": ["a"]}, 404, "Servable not found for request: Latest(no)"),
        (
            "POST", f"{BASE}/labels/x:predict", {"inputs": ["a"]}, 400, "Unrecognized servable version label: x",
        ),
        (
            "POST", f"{BASE}/versions/{10**20}:predict", "", 400,
            f"Failed to convert version: {10**20} to numeric.",
        ),
        ("POST", f"{BASE}:explain", {"inputs": ["a"]}, 400, f"Malformed request: POST {BASE}:explain"),
        ("POST", BASE, {"inputs": ["a"]}, 400, f"Malformed request: POST {BASE}"),
        ("GET", f"{BASE}:predict", None, 400, f"Malformed request: GET {BASE}:predict"),
        ("DELETE", BASE, None, 400, f"Malformed request: DELETE {BASE}"),
        ("GET", "/v1/models/no", None, 404, "Could not find any versions of model no"),
        ("GET", f"{BASE}/versions/9", None, 404, "Could not find version 9 of model tfseq2seq"),
        ("GET", "/v1/models/", None, 400, "Malformed request: GET /v1/models/"),
        ("GET", "/v1/models/%ff", None, 400, "Failed to decode model name:%ff"),
        ("GET", "/v1/models/no/metadata", None, 404, "Servable not found for request: Latest(no)"),
        (
            "POST", f"{BASE}:classify", {"examples": [{"a": 1}]}, 400,
            "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
            "tensorflow/serving/predict",
        ),
        (
            "POST", f"{BASE}:regress", {"examples": [{"a": 1}]}, 400,
            "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
            "tensorflow/serving/predict",
        ),
        (
            "POST", f"{BASE}:classify", {}, 400,
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            "POST", f"{BASE}:predict", {"inputs": ["a"] * 33}, 400,
            "Task size 33 is larger than maximum input batch size 32",
        ),
        ("POST", "/other", {}, 405, "Only GET and HEAD are known here."),
        ("GET", "/other", None, 404, "Not found."),
    ],
)
def test_a_bad_request_gets_its_status_and_the_next_one_its_answer(ask, method, path, body, status, error):
    assert ask(method, path, body) == (status, {"error": error})
    assert ask("POST", f"{BASE}:predict", {"inputs": ["a"]})[0] == 200  # on the same connection


@pytest.mark.parametrize("version", ["0" * 20 + "9" * 20, "9" * 19, str(1 << 63)])
def test_a_version_that_is_no_number_of_64_bits_is_a_bad_request(ask, version):
    status, answer = ask("POST", f"{BASE}/versions/{version}:predict", {"instances": ["a"]})
    assert (status, answer) == (400, {"error": f"Failed to convert version: {version} to numeric."})


def test_a_version_may_have_zeros_before_it(ask):
    assert ask("POST", f"{BASE}/versions/{'0' * 30}1:predict", {"instances": ["a"]})[0] == 200


@pytest.mark.parametrize("depth", range(980, 1000, 2))
def test_json_of_any_depth_is_a_bad_request(ask, depth):
    for body in ("[" * depth + "]" * depth, f'{{"instances": {"[" * depth + "]" * depth}}}'):
        status, answer = ask("POST", f"{BASE}:predict", body)
        assert status == 400 and set(answer) == {"error"}


def test_a_row_that_the_model_refuses_is_a_bad_request(ask):
    status, answer = ask("POST", f"{BASE}:predict", {"instances": [{"b64": "/w=="}]})
    assert status == 400 and "\n" not in answer["error"]


def test_status_and_metadata_are_those_of_grpc(ask):
    version = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = [{"version": "2"} | version, {"version": "1"} | version]
    assert ask("GET", BASE) == (200, {"model_version_status": both})
    assert ask("GET", f"{BASE}/versions/1") == (200, {"model_version_status": both[1:]})
    assert ask("GET", f"{BASE}/labels/stable?a=b") == (200, {"model_version_status": both[1:]})
    status, answer = ask("GET", f"{BASE}/versions/2/metadata")
    assert (status, answer["model_spec"]) == (200, {"name": "tfseq2seq", "signature_name": "", "version": "2"})
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["repeat"]["method_name"] == "tensorflow/serving/predict"
    assert signatures["repeat"]["inputs"]["times"]["dtype"] == "DT_INT64"
    assert signatures["repeat"]["inputs"]["times"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_the_request_id_of_the_caller_comes_back_and_others_are_made_up(ask):
    body = {"inputs": ["a"]}
    assert ask.plain("POST", f"{BASE}:predict", body, X_Request_Id="abc-1")[2].headers["x-request-id"] == "abc-1"
    made = {ask.plain("POST", f"{BASE}:predict", body, X_Request_Id="\x80 b")[2].headers["x-request-id"] for _ in "ab"}
    assert len(made) == 2 and all(len(each) == 32 for each in made)
    assert ask.plain("GET", "/v1/models/no", X_Request_Id="no")[2].headers["x-request-id"] == "no"


def test_one_more_request_than_may_wait_is_refused(server, ask, monkeypatch):
    entered, go_on, predict = threading.Semaphore(0), threading.Event(), servables.Servable.predict

    def slow(self, request):
        entered.release()
        assert go_on.wait(30)
        return predict(self, request)

    def send(text):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        connection.request("POST", f"{BASE}:predict", json.dumps({"inputs": [text]}))
        return json.loads(connection.getresponse().read())

    monkeypatch.setattr(servables.Servable, "predict", slow)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(send, text) for text in "ab"]
        for _ in answers:
            assert entered.acquire(timeout=30)
        assert ask("POST", f"{BASE}:predict", {"inputs": ["c"]}) == (
            429, {"error": "Too many requests wait; try again later."})
        assert ask("GET", BASE)[0] == ask("GET", "/healthz")[0] == 200
        go_on.set()
        assert [answer.result(30)["outputs"]["text"] for answer in answers] == [[["a@2"]], [["b@2"]]]


def test_a_request_that_takes_too_long_gets_an_answer(small, monkeypatch):
    go_on, computed, predict = threading.Event(), [], servables.Servable.predict

    def slow(self, request):
        computed.append(request.inputs["text"].string_val[0])
        assert go_on.wait(30)
        return predict(self, request)

    with EmbeddedServer(small, poll_seconds=0, rest_port=0, limits=Limits(rest_timeout=0.3), workers=1) as server:
        monkeypatch.setattr(servables.Servable, "predict", slow)

        def send(text):
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
            connection.request("POST", f"{BASE}:predict", json.dumps({"inputs": [text]}))
            return connection.getresponse().status

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(send, ["first", "second"])) == [504, 504]
        go_on.set()
    assert len(computed) == 1  # the other one waited in vain, and was left out


def test_health_says_that_the_server_serves(ask):
    assert ask("GET", "/healthz") == (200, {"status": "SERVING"})


@pytest.fixture
def page(server, tmp_path, monkeypatch):
    folder = tmp_path / "playground"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>ä</h1>", encoding="utf-8")
    (folder / "parts" / "page.js").write_text("1")
    (folder / ".hidden").write_text("no")
    (tmp_path / "secret.txt").write_text("no")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(server.rest, "_playground", folder)


def test_the_page_is_served_with_its_types_and_policy(ask, page):
    status, body, response = ask.plain("GET", "/")
    assert (status, body.decode()) == (200, "<h1>ä</h1>")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    status, body, response = ask.plain("GET", "/parts/page.js?v=1")
    assert (status, body, response.headers["Content-Type"]) == (200, b"1", "text/javascript; charset=utf-8")
    status, body, response = ask.plain("HEAD", "/index.html")
    assert (status, body, response.headers["Content-Length"]) == (200, b"", "11")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/parts/../../secret.txt", "/..%2fsecret.txt", "/.hidden",
        "//etc/passwd", "/link.txt", "/%00", "/parts", "/etc/passwd", "/%2fetc%2fpasswd",
        "/parts%5c..%5c..%5csecret.txt",
    ],
)
def test_nothing_but_the_page_is_served(ask, page, path):
    assert ask("GET", path) == (404, {"error": "Not found."})


# The HTTP server below.


async def echo(request):
    return HttpResponse(200, request.method.encode() + b" " + request.body)


@pytest.fixture
def plain():
    server = HttpServer(echo, "127.0.0.1", 0, None, max_body=1000, seconds=5.0)
    server.start()
    yield server
    server.stop(1.0)


def talk(server, *pieces):
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        return received.decode("latin-1")


CLOSE = b"Host: a\r\nConnection: close\r\n"


def test_requests_in_pieces_in_chunks_and_in_one_go_are_read(plain):
    byte_by_byte = [bytes([each]) for each in b"POST / HTTP/1.1\r\n" + CLOSE + b"Content-Length: 3\r\n\r\nabc"]
    assert talk(plain, *byte_by_byte).endswith("\r\n\r\nPOST abc")
    chunks = b"POST / HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert talk(plain, chunks).endswith("\r\n\r\nPOST abc")
    together = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n"
    assert talk(plain, together).count("200 OK") == 4


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(plain):
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n" + CLOSE + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"x")
        assert b"POST x" in connection.recv(1000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (90 << 10), 431),
    ],
)
def test_broken_and_large_requests_end_their_connection_alone(plain, sent, status):
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(sent)
        answer = connection.makefile("rb").read().decode("latin-1")
    assert answer.startswith(f"HTTP/1.1 {status} ") and "\r\nconnection: close\r\n" in answer.lower()
    assert "error" in answer
    assert talk(plain, b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n").startswith("HTTP/1.1 200 OK")


def test_slow_clients_are_cut_off_and_cost_no_thread(monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_server, "IDLE_SECONDS", 0.2)
    server = HttpServer(echo, "127.0.0.1", 0, None, max_body=1000, seconds=0.2)
    server.start()
    threads = threading.active_count()
    parts, slow = [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"], []
    for number in range(90):
        slow.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        slow[-1].sendall(parts[number % 3])
    assert talk(server, b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n").startswith("HTTP/1.1 200 OK")
    assert threading.active_count() == threads
    ends = [connection.makefile("rb").read() for connection in slow]
    assert [end[:12] for end in ends[:3]] == [b"", b"HTTP/1.1 408", b"HTTP/1.1 408"]
    server.stop(1.0)


def test_too_many_connections_are_refused(monkeypatch, plain):
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    open_ones = [socket.create_connection(("127.0.0.1", plain.port), timeout=30) for _ in range(2)]
    for connection in open_ones:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as third:
        assert third.recv(1000).startswith(b"HTTP/1.1 503")
    for connection in open_ones:
        connection.close()


def test_stop_waits_for_the_request_under_way_and_not_for_idle_connections():
    entered, go_on = threading.Event(), threading.Event()

    async def slow(request):
        entered.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 30)
        return HttpResponse(200, b"late")

    server = HttpServer(slow, "127.0.0.1", 0, None, max_body=1000, seconds=30.0)
    server.start()
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(talk, server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(30)
        stopped = pool.submit(server.stop, 30.0)
        assert idle.recv(1) == b""  # closed, while the other one is under way
        go_on.set()
        assert answer.result(30).endswith("late") and "close" in answer.result()
        stopped.result(30)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_a_mistake_of_the_handler_is_told_without_its_text(caplog):
    async def broken(request):
        raise KeyError("a secret")

    server = HttpServer(broken, "127.0.0.1", 0, None, max_body=1000, seconds=5.0)
    server.start()
    answer = talk(server, b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n")
    server.stop(1.0)
    assert answer.startswith("HTTP/1.1 500 ") and "secret" not in answer


def test_a_rest_port_in_use_is_one_clear_line(server, small):
    with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{server.rest_port}: address already in use"):
        EmbeddedServer(small, poll_seconds=0, rest_port=server.rest_port).start()
