"""Servers of both protocols that answer by a script: no model, no TensorFlow."""

import contextlib
import http.server
import json
import ssl
import threading
from concurrent import futures

import grpc

from serving import protocol

HTTP_STATUS = {
    grpc.StatusCode.UNAVAILABLE: 503, grpc.StatusCode.RESOURCE_EXHAUSTED: 429, grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401}


class Script:
    """What to do with requests, and what came.

    Attributes:
        fails: codes of the next requests, before they are answered.
        token: without which UNAUTHENTICATED is answered.
        hold: before the answer, waits for this many requests to be there at once.
        seen: headers of each request.
        texts: of each request that was answered.
    """

    def __init__(self, fails=(), token=None, hold=1):
        self.fails, self.token, self.seen, self.texts = list(fails), token, [], []
        self._together = threading.Barrier(hold)

    def refusal(self, headers):
        """A code, or None for a request to be answered."""
        self.seen.append(headers)
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return grpc.StatusCode.UNAUTHENTICATED
        return self.fails.pop(0) if self.fails else None

    def answer(self, texts):
        """Texts and scores: in capitals, and their lengths."""
        self._together.wait(timeout=30)
        self.texts.append(texts)
        return [[text.upper()] for text in texts], [[float(len(text))] for text in texts]


@contextlib.contextmanager
def grpc_server(script, credentials=None):
    """Yields its address."""

    def predict(request, context):
        code = script.refusal(dict(context.invocation_metadata()))
        if code is not None:
            context.abort(code, "as the script says")
        texts, scores = script.answer([each.decode() for each in request.inputs["text"].string_val])
        response = protocol.PredictResponse()
        for name, values in (("text", texts), ("score", scores)):
            flat = [row[0] for row in values]
            response.outputs[name].CopyFrom(
                protocol.strings_to_tensor([each.encode() for each in flat]) if name == "text"
                else protocol.numbers_to_tensor(flat, "float32"))
            response.outputs[name].tensor_shape.dim.add(size=1)
        response.outputs["truncated"].dtype = 10
        response.outputs["truncated"].bool_val.extend([False] * len(texts))
        response.outputs["truncated"].tensor_shape.dim.add(size=len(texts))
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        predict, request_deserializer=protocol.PredictRequest.FromString,
        response_serializer=lambda message: message.SerializeToString())
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler}),))
    port = (
        server.add_insecure_port("127.0.0.1:0") if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def rest_server(script, context=None):
    """Yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = script.refusal({name.lower(): value for name, value in self.headers.items()})
            status, answer = 200, {}
            if code is not None:
                status, answer = HTTP_STATUS[code], {"error": "as the script says"}
            else:
                texts, scores = script.answer(body["inputs"]["text"])
                answer = {"outputs": {"text": texts, "score": scores, "truncated": [False] * len(texts)}}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):  # of callers who are gone
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scripted_server(kind, script, **secured):
    """The server for a kind of client."""
    return (rest_server if kind.startswith("rest") else grpc_server)(script, **secured)


def secured(kind, folder, name="server", mutual=False):
    """What makes a scripted server ask for TLS."""
    if not kind.startswith("rest"):
        pair = ((folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes())
        authority = (folder / "ca.pem").read_bytes() if mutual else None
        return {"credentials": grpc.ssl_server_credentials([pair], authority, require_client_auth=mutual)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    if mutual:
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return {"context": context}
