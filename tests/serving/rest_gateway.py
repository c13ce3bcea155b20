"""TensorFlow Serving's REST protocol in front of a server that speaks its gRPC, as its documentation tells it."""

import base64
import http.server
import json
import re
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.FAILED_PRECONDITION: 400, grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503}
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(:predict|/metadata|)")


class RestGateway(http.server.ThreadingHTTPServer):
    """Hands on to the gRPC server at an address; `files` is a folder that GET / serves."""

    def __init__(self, address, files=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(channel)
        self.files = files
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, request, address, server):
        super().__init__(request, address, server, directory=server.files)

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Content-Security-Policy", "default-src 'self'")
        super().end_headers()

    def do_GET(self):
        if self.path.startswith("/v1/"):
            self._answer(b"")
        else:
            super().do_GET()

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        try:
            status, answer = 200, self._asked(body)
        except grpc.RpcError as error:
            status, answer = _STATUS.get(error.code(), 500), json.dumps({"error": error.details()})
        except KeyError as error:
            status, answer = 400, json.dumps({"error": f"Missing named input: {error} in 'inputs' object."})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.encode())))
        self.end_headers()
        self.wfile.write(answer.encode())

    def _asked(self, body):
        name, version, what = _PATH.fullmatch(self.path).groups()
        asked = {"": get_model_status_pb2.GetModelStatusRequest}.get(
            what, get_model_metadata_pb2.GetModelMetadataRequest)()
        asked.model_spec.name = name
        if version:
            asked.model_spec.version.value = int(version)
        if not what:
            return json_format.MessageToJson(
                self.server.model.GetModelStatus(asked), preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True)
        asked.metadata_field.append("signature_def")
        metadata = self.server.prediction.GetModelMetadata(asked)
        if what == "/metadata":
            return json_format.MessageToJson(
                metadata, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return self._predict(asked.model_spec, metadata, json.loads(body))

    def _predict(self, spec, metadata, body):
        signatures = get_model_metadata_pb2.SignatureDefMap()
        metadata.metadata["signature_def"].Unpack(signatures)
        request = predict_pb2.PredictRequest(model_spec=spec)
        request.model_spec.signature_name = body["signature_name"]
        for alias, info in signatures.signature_def[body["signature_name"]].inputs.items():
            values = body["inputs"][alias]
            if info.dtype == tf.string.as_datatype_enum:
                values = [
                    base64.b64decode(each["b64"]) if isinstance(each, dict) else each.encode() for each in values]
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(values, info.dtype))
        outputs = {
            alias: tf.make_ndarray(proto) for alias, proto in self.server.prediction.Predict(request).outputs.items()}
        written = {alias: _plain(array) for alias, array in outputs.items()}
        return json.dumps({"outputs": written if len(written) > 1 else next(iter(written.values()))})


def _plain(array):
    if array.dtype == object:
        return np.vectorize(lambda each: each.decode("utf-8", "replace"), otypes=[object])(array).tolist()
    return array.tolist()
