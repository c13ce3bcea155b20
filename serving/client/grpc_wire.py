"""TensorFlow Serving's gRPC protocol: requests made, responses read, nothing sent."""

from collections.abc import Callable
from typing import Any

from serving import protocol
from serving.client.methods import Exchange
from serving.client.questions import Piece
from serving.client.results import Malformed, SignatureInfo, TensorInfo, VersionStatus
from serving.client.settings import Settings

# Connections that broke are tried again as soon as requests are; gRPC itself would let a second pass, then two minutes.
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000)]
_RESPONSES = {
    protocol.PREDICT: protocol.PredictResponse,
    protocol.GET_MODEL_METADATA: protocol.GetModelMetadataResponse,
    protocol.GET_MODEL_STATUS: protocol.GetModelStatusResponse}


def channel_opener(settings: Settings) -> Callable[[Any], Any]:
    """A function that opens a channel of the module `grpc` or `grpc.aio`.

    Raises:
        ValueError: no address, or one of another protocol.
        OSError: a file of `tls` cannot be read.
    """
    if not settings.address or settings.address.startswith(("http://", "https://")):
        raise ValueError(f"A gRPC client needs an address as 'host:port'. Received: {settings.address!r}.")
    # A proxy cannot reach this machine's own loopback.
    options = _OPTIONS + ([("grpc.enable_http_proxy", 0)] if settings.on_loopback else [])
    if settings.tls is None:
        return lambda module: module.insecure_channel(settings.address, options)
    if settings.tls.server_name is not None:
        options = [*options, ("grpc.ssl_target_name_override", settings.tls.server_name)]
    credentials = settings.tls.grpc_credentials()
    return lambda module: module.secure_channel(settings.address, credentials, options)


def methods(channel: Any) -> dict[str, Any]:
    """What calls each method of a channel."""
    return {
        name: channel.unary_unary(
            name, request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString)
        for name, response in _RESPONSES.items()}


class GrpcWire:
    """Exchanges of protocol messages."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def predict(self, piece: Piece) -> Exchange[list[dict[str, Any]]]:
        request = protocol.PredictRequest(
            model_spec=self._model_spec(piece.signature), output_filter=list(piece.outputs))
        for name, values in piece.columns.items():
            request.inputs[name].CopyFrom(
                protocol.strings_to_tensor(values) if piece.dtypes[name] == "string"
                else protocol.numbers_to_tensor(values, piece.dtypes[name]))
        return Exchange(protocol.PREDICT, request, lambda response: piece.rows(_arrays(response, piece)))

    def metadata(self) -> Exchange[dict[str, SignatureInfo]]:
        request = protocol.GetModelMetadataRequest(
            model_spec=self._model_spec(), metadata_field=[protocol.SIGNATURE_DEF])
        return Exchange(protocol.GET_MODEL_METADATA, request, _signatures)

    def status(self) -> Exchange[list[VersionStatus]]:
        request = protocol.GetModelStatusRequest(model_spec=self._model_spec())
        return Exchange(protocol.GET_MODEL_STATUS, request, lambda response: [
            VersionStatus(
                each.version, protocol.STATES.get(each.state, str(each.state)), each.status.error_code,
                each.status.error_message)
            for each in response.model_version_status])

    def _model_spec(self, signature: str = "") -> Any:
        spec = protocol.ModelSpec(name=self._settings.model, signature_name=signature)
        if self._settings.version is not None:
            spec.version.value = self._settings.version
        if self._settings.label is not None:
            spec.version_label = self._settings.label
        return spec


def _arrays(response: Any, piece: Piece) -> dict[str, Any]:
    arrays = {}
    for name in piece.outputs:
        if name not in response.outputs:
            raise Malformed(f"signature {piece.signature!r} gave no output {name!r}")
        try:
            arrays[name] = protocol.tensor_to_array(response.outputs[name])
        except ValueError as error:
            raise Malformed(f"output {name!r} cannot be read: {error}") from error
    return arrays


def _signatures(response: Any) -> dict[str, SignatureInfo]:
    signatures = protocol.SignatureDefMap()
    if not response.metadata[protocol.SIGNATURE_DEF].Unpack(signatures):
        raise Malformed("the metadata holds no signatures")
    return {
        name: SignatureInfo(_infos(signature.inputs), _infos(signature.outputs))
        for name, signature in sorted(signatures.signature_def.items())}


def _infos(tensors: Any) -> dict[str, TensorInfo]:
    infos = {}
    for name, tensor in sorted(tensors.items()):
        shape = None
        if not tensor.tensor_shape.unknown_rank:
            shape = tuple(None if each.size < 0 else each.size for each in tensor.tensor_shape.dim)
        infos[name] = TensorInfo(protocol.DATA_TYPES.get(tensor.dtype, str(tensor.dtype)), shape)
    return infos
