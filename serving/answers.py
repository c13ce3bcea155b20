"""What is answered, whichever way the question came; codes and texts are TensorFlow Serving's."""

import contextvars
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf import text_format
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    UNKNOWN,
    RequestError,
)
from serving.folders import find_versions
from serving.settings import Limits, ServedModel, Versions
from serving.signatures import SERVING_DEFAULT
from serving.versions import Models

PLATFORM = "tensorflow"
SIGNATURE_DEF = "signature_def"  # the one field of metadata there is


@dataclasses.dataclass
class Call:
    """One request on its way, for its deadline, the metrics and the log.

    Attributes:
        method: what is asked, as "Predict".
        api: "grpc" or "rest".
        request_id: of the caller, or made up.
        arrived: time.monotonic() when it came.
        deadline: time.monotonic() after which nobody waits for the answer; None is never.
        is_wanted: whether the caller still waits.
        model, version, rows: what was asked for, when it is known to be there.
        code: gRPC's number.
    """

    method: str
    request_id: str
    arrived: float
    deadline: float | None = None
    is_wanted: Callable[[], bool] = lambda: True
    api: str = "grpc"
    model: str = ""
    version: int | None = None
    rows: int = 0
    code: int = 0

    def check(self) -> None:
        """Raises RequestError if nobody waits for the answer any more."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise RequestError(DEADLINE_EXCEEDED, "Deadline exceeded while the request waited")
        if not self.is_wanted():
            raise RequestError(CANCELLED, "The caller is gone")


# The call that this thread works on.
CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


class Answers:
    """Answers the messages of PredictionService and ModelService.

    Every method raises RequestError where there is no answer.

    Args:
        models: what is served.
        limits: what a request may ask for.
    """

    def __init__(self, models: Models, limits: Limits):
        self.models, self._limits = models, limits

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """The model's outputs."""
        with self._hold(request) as servable:
            return self._predict(servable, request)

    def predict_filled(self, spec: Any, fill: Callable[[dict[str, Any], Any], str]) -> tuple[str, Any]:
        """The outputs for inputs that are written when the version that answers is known.

        Args:
            spec: ModelSpec.
            fill: is given TensorInfo of each input of the signature, and the map of TensorProto to fill.
        Returns:
            what `fill` returned, PredictResponse.
        """
        name = spec.signature_name or SERVING_DEFAULT
        with self.models.hold(spec) as servable:
            if name not in servable.signature_defs:
                raise RequestError(INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
            request = predict_pb2.PredictRequest(model_spec=spec)
            found = fill(dict(servable.signature_defs[name].inputs), request.inputs)
            return found, self._predict(servable, request)

    def _predict(self, servable: Any, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        call = CALL.get()
        if call is not None:
            call.check()
        shapes = [proto.tensor_shape for proto in request.inputs.values()]
        rows = max((shape.dim[0].size for shape in shapes if shape.dim), default=0)
        if rows > self._limits.max_rows:
            raise RequestError(
                INVALID_ARGUMENT,
                f"A request holds at most {self._limits.max_rows} rows; send it in parts. Received: {rows} rows.")
        if call is not None:
            call.model, call.version, call.rows = request.model_spec.name, servable.version, rows
        return servable.predict(request)

    def metadata(self, request: Any) -> Any:
        """GetModelMetadataResponse."""
        _need_spec(request)
        if not request.metadata_field:
            raise RequestError(INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise RequestError(INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._hold(request) as servable:
            for name, definition in servable.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
            response.model_spec.version.value = servable.version
        response.model_spec.name = request.model_spec.name
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(self, request: Any) -> Any:
        """GetModelStatusResponse."""
        _need_spec(request)
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=self.models.status(request.model_spec))

    def classify(self, request: Any) -> NoReturn:
        """Always raises: no signature here is for it."""
        self._refuse(request, "classification", "tensorflow/serving/classify")

    def regress(self, request: Any) -> NoReturn:
        """Always raises: no signature here is for it."""
        self._refuse(request, "regression", "tensorflow/serving/regress")

    def reload(self, request: Any) -> Any:
        """ReloadConfigResponse, when the models that were asked for are served."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise RequestError(
                INVALID_ARGUMENT,
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported")
        models = read_config(request.config)
        failed = self.models.replace(models, lambda: self._check_labels(models))
        if failed:
            raise RequestError(UNKNOWN, "Some models did not become available: {" + ", ".join(failed) + "}")
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = error_codes_pb2.OK
        return response

    def _refuse(self, request: Any, kind: str, method_name: str) -> NoReturn:
        name = request.model_spec.signature_name or SERVING_DEFAULT
        with self._hold(request) as servable:
            if name not in servable.signature_defs:
                raise RequestError(INVALID_ARGUMENT, f"No signature was found with the name: {name}")
            found = servable.signature_defs[name].method_name
        raise RequestError(
            INVALID_ARGUMENT, f"Expected {kind} signature method_name to be {method_name}. Was: {found}")

    def _check_labels(self, models: list[ServedModel]) -> None:
        loaded = self.models.loaded()
        for each in models:
            for version in each.labels.values():
                if version not in loaded.get(each.name, []):
                    raise RequestError(
                        FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {each.name}, which is not currently "
                        "available for inference")

    def _hold(self, request: Any) -> Any:
        _need_spec(request)
        return self.models.hold(request.model_spec)


def read_config_file(path: Path) -> list[ServedModel]:
    """The models of a ModelServerConfig in the text format, as TensorFlow Serving's --model_config_file.

    Raises:
        ValueError: it cannot be read, or what it asks for cannot be served.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
        models = read_config(config)
    except (OSError, text_format.ParseError, RequestError) as error:
        raise ValueError(f"{path}: not a ModelServerConfig that can be served: {error}") from error
    if not models:
        raise ValueError(f"{path}: a server needs a model_config_list with at least one config. Received: none.")
    return models


def read_config(config: Any) -> list[ServedModel]:
    """The models of a ModelServerConfig.

    Raises:
        RequestError: what TensorFlow Serving refuses, or a folder without a version.
    """
    models: dict[str, ServedModel] = {}
    for each in config.model_config_list.config:
        if each.name in models:
            raise RequestError(INVALID_ARGUMENT, f"Illegal to list model {each.name} multiple times in config list")
        if not each.model_platform:
            raise RequestError(
                INVALID_ARGUMENT,
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform.")
        if each.model_platform != PLATFORM:
            raise RequestError(
                INVALID_ARGUMENT, f"Model {each.name} requests unsupported platform {each.model_platform}")
        folder = Path(each.base_path)
        if not folder.is_absolute():
            raise RequestError(
                INVALID_ARGUMENT,
                f"Expected model {each.name} to have an absolute path or URI; got base_path()={each.base_path}")
        try:
            models[each.name] = ServedModel(
                name=each.name, folder=folder, versions=_versions(each.model_version_policy),
                labels=dict(each.version_labels))
            find_versions(folder)
        except ValueError as error:
            raise RequestError(
                INVALID_ARGUMENT, f"Could not find base path {folder} for servable {each.name} with error {error}"
            ) from error
    return list(models.values())


def _versions(policy: Any) -> Versions:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return "all"
    if choice == "specific":
        return tuple(policy.specific.versions)
    return max(1, policy.latest.num_versions)


def _need_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise RequestError(INVALID_ARGUMENT, "Missing ModelSpec")
