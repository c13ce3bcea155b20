"""Which versions of which models are loaded: they come and go while requests are answered."""

import contextlib
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorflow_serving.apis import get_model_status_pb2

from serving import servables
from serving.batching import Batcher
from serving.errors import INVALID_ARGUMENT, NOT_FOUND, UNKNOWN, RequestError, ServerError
from serving.folders import find_versions, read_labels
from serving.settings import ServedModel

State = get_model_status_pb2.ModelVersionStatus
_log = logging.getLogger(__name__)


class _Held:
    """A loaded version and how many requests use it now."""

    def __init__(self, servable: servables.Servable):
        self.servable, self.users, self.leaving = servable, 0, False


class _Model:
    """What is known of one model; guarded by the lock of `Models`."""

    def __init__(self, settings: ServedModel):
        self.settings = settings
        self.labels = dict(settings.labels)
        self.loaded: dict[int, _Held] = {}
        self.states: dict[int, Any] = {}
        self.seen: dict[int, object] = {}  # what lay in a version's folder at the last look, until it is loaded
        self.failed: dict[int, object] = {}  # what lay there when it could not be loaded


class Models:
    """Loads versions, gives them to requests and takes them back.

    A new version answers warm-up requests before it takes others. An old one is unloaded when a new one is there and
    no request uses it. A version that cannot be loaded changes nothing for the others, and is tried again when its
    folder changes. The labels beside the versions hold for "latest" and "all", and what they name is served too.

    Args:
        models: each with another name.
        batcher: joins rows of several requests; None answers each request by itself.
        poll_seconds: how often the folders are looked at for new versions; 0 looks once.
        on_change: told model -> whether a version of it is loaded, after each change.
    Raises:
        ValueError: a folder holds no SavedModel or not the versions asked for.
    """

    def __init__(
        self, models: Sequence[ServedModel], batcher: Batcher | None = None, poll_seconds: float = 2.0,
        on_change: Callable[[dict[str, bool]], None] = lambda ready: None,
    ):
        if not poll_seconds >= 0:
            raise ValueError(f"Models needs poll_seconds >= 0. Received: poll_seconds={poll_seconds}.")
        if len({each.name for each in models}) != len(models):
            raise ValueError(f"Models needs another name for each model. Received: {[each.name for each in models]}.")
        for each in models:
            found = find_versions(each.folder)
            missing = set(each.versions) - set(found) if isinstance(each.versions, tuple) else set()
            if missing or each.versions == ():
                raise ValueError(
                    f"{each.folder}: a server needs versions 'latest', 'all' or some of {sorted(found)}. "
                    f"Received: {list(each.versions)}.")  # type: ignore[arg-type]
        self._models = {each.name: _Model(each) for each in models}
        self._batcher, self._poll_seconds, self._on_change = batcher, poll_seconds, on_change
        self._lock = threading.Lock()  # of what is loaded; held for moments
        self._changing = threading.RLock()  # of loading and unloading; held while a model is loaded
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Loads what is there, then watches the folders.

        Raises:
            ServerError: no version of some model can be loaded.
        """
        with self._changing:
            for model in self._models.values():
                self._update(model, at_once=True)
                if not model.loaded:
                    reasons = [state.status.error_message for state in model.states.values()]
                    raise ServerError(" ".join(reasons) or f"{model.settings.folder}: the versions asked for are gone.")
                for label, version in model.settings.labels.items():
                    if version not in model.loaded:
                        raise ServerError(
                            f"Label {label!r} of model {model.settings.name} names version {version}, which is not "
                            f"loaded. Loaded: {sorted(model.loaded)}.")
        if self._poll_seconds > 0:
            self._stopping.clear()
            self._watcher = threading.Thread(target=self._watch, name="serving-versions", daemon=True)
            self._watcher.start()

    def stop(self, seconds: float | None = None) -> None:
        """Watches no more; what is loaded stays. Waits for a load under way, for at most `seconds`."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(seconds)

    def poll(self) -> None:
        """Looks at the folders once: loads what is new and whole, unloads what is not wanted any more."""
        with self._changing:
            for model in list(self._models.values()):
                try:
                    self._update(model, at_once=False)
                except Exception:  # whatever lies in a folder, it is no trouble of the other models
                    _log.exception("looking for new versions of model %s failed", model.settings.name)

    @contextlib.contextmanager
    def hold(self, spec: Any) -> Iterator[servables.Servable]:
        """The version that a ModelSpec asks for; it stays loaded until the end of the block.

        Raises:
            RequestError: the spec names no model, or none that is loaded.
        """
        held = self._take(spec)
        try:
            yield held.servable
        finally:
            with self._lock:
                held.users -= 1
                gone = held.leaving and not held.users
            if gone:
                self._unloaded(spec.name, held)

    def status(self, spec: Any) -> list[Any]:
        """ModelVersionStatus of the versions a ModelSpec asks for, the highest first.

        Raises:
            RequestError: there is none.
        """
        with self._lock:
            model = self._models.get(spec.name)
            states = dict(model.states) if model else {}
            version = self._asked_for(spec)
        if version is not None:
            if version not in states:
                raise RequestError(NOT_FOUND, f"Could not find version {version} of model {spec.name}")
            states = {version: states[version]}
        if not states:
            raise RequestError(NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return [states[version] for version in sorted(states, reverse=True)]

    def loaded(self) -> dict[str, list[int]]:
        """Model -> its versions that take requests."""
        with self._lock:
            return {name: sorted(model.loaded) for name, model in self._models.items()}

    def settings(self) -> dict[str, ServedModel]:
        """The models by name, as they were asked for last."""
        with self._lock:
            return {name: model.settings for name, model in self._models.items()}

    def replace(self, models: Sequence[ServedModel], labels_checked: Callable[[], None] = lambda: None) -> list[str]:
        """Serves these models from now on; returns the names of new ones of which no version can be loaded.

        Args:
            models: all that are to be served; others are unloaded.
            labels_checked: called when nothing else can change what is loaded, before anything is changed; may raise.
        """
        with self._changing:
            labels_checked()
            before = self._models
            after = {each.name: before.get(each.name) or _Model(each) for each in models}
            for each in models:
                if after[each.name].settings.folder != each.folder and after[each.name].loaded:
                    _log.warning(  # as TensorFlow Serving, which knows a version by its number
                        "model %s has another folder, %s: versions that are loaded (%s) stay as they were; export the "
                        "new ones under other numbers", each.name, each.folder,
                        ", ".join(map(str, sorted(after[each.name].loaded))))
                after[each.name].settings = each
            with self._lock:
                self._models = after
            for name, model in before.items():
                if name not in after:
                    self._unload(model, set(model.loaded))
            for model in after.values():
                self._update(model, at_once=True)
            return [name for name, model in after.items() if not model.loaded and name not in before]

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self.poll()

    def _update(self, model: _Model, at_once: bool) -> None:
        try:
            found = find_versions(model.settings.folder)
            labels = self._labels(model)
            wanted = model.settings.choose(found) | {each: found[each] for each in labels.values() if each in found}
            labels |= model.settings.labels
        except ValueError as error:  # gone for a moment, or for good: what is loaded goes on
            _log.warning("%s", error)
            return
        for version, path in wanted.items():
            if version in model.loaded:
                continue
            content = _content(path)
            if not at_once and (content == model.failed.get(version) or content != model.seen.get(version)):
                model.seen[version] = content  # a folder that still changes is being written
                continue
            self._load(model, version, path, content)
        with self._lock:  # a label moves when the version that it moves to is there
            model.labels = {
                label: version if version in model.loaded else model.labels.get(label, version)
                for label, version in labels.items()}
        if model.loaded.keys() & wanted.keys():
            self._unload(model, model.loaded.keys() - wanted.keys() - set(model.labels.values()))

    def _labels(self, model: _Model) -> dict[str, int]:
        """Those beside the versions, where these were not chosen one by one."""
        if model.settings.versions not in ("latest", "all"):
            return {}
        try:
            return read_labels(model.settings.folder)
        except ValueError as error:
            _log.warning("%s", error)
            return {label: version for label, version in model.labels.items() if label not in model.settings.labels}

    def _load(self, model: _Model, version: int, path: Path, content: object) -> None:
        name = model.settings.name
        self._set_state(model, version, State.LOADING)
        try:
            servable = servables.load(version, path, self._batcher)
        except Exception as error:  # a broken file raises whatever the broken part is read by
            model.failed[version] = content
            self._set_state(model, version, State.END, str(error))
            _log.error("version %d of model %s cannot be loaded: %s", version, name, error)
            return
        model.seen.pop(version, None)
        model.failed.pop(version, None)
        with self._lock:
            model.loaded[version] = _Held(servable)
        self._set_state(model, version, State.AVAILABLE)
        _log.info("version %d of model %s is loaded", version, name)

    def _unload(self, model: _Model, versions: set[int]) -> None:
        for version in sorted(versions):
            with self._lock:  # all at once: the last request that uses it says END from another thread
                held = model.loaded.pop(version)
                held.leaving = True
                gone = not held.users
                model.states[version] = _status(version, State.UNLOADING)
            self._tell_change()
            if gone:
                self._unloaded(model.settings.name, held)

    def _unloaded(self, name: str, held: _Held) -> None:
        version = held.servable.version
        with self._lock:
            model = self._models.get(name)
            if model is not None and version not in model.loaded:
                model.states[version] = _status(version, State.END)
        model_alive = weakref.ref(held.servable.model)
        del held.servable
        threading.Thread(
            target=_collect, args=(model_alive, version, name), name="serving-unloading", daemon=True).start()

    def _set_state(self, model: _Model, version: int, state: int, error: str = "") -> None:
        with self._lock:
            model.states[version] = _status(version, state, error)
        self._tell_change()

    def _tell_change(self) -> None:
        with self._lock:
            ready = {name: bool(each.loaded) for name, each in self._models.items()}
        self._on_change(ready)

    def _take(self, spec: Any) -> _Held:
        if not spec.name:
            raise RequestError(INVALID_ARGUMENT, "ModelSpec has no name specified.")
        with self._lock:  # at once: a label may move and its old version go
            version = self._asked_for(spec)
            model = self._models.get(spec.name)
            loaded = model.loaded if model else {}
            found = max(loaded, default=None) if version is None else version
            if found in loaded:
                loaded[found].users += 1
                return loaded[found]
        wanted = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
        raise RequestError(NOT_FOUND, f"Servable not found for request: {wanted}")

    def _asked_for(self, spec: Any) -> int | None:
        """The version that a ModelSpec names, by its number or its label; None where it names none. Holds the lock."""
        if not spec.WhichOneof("version_choice"):
            return None
        if spec.HasField("version"):
            return spec.version.value
        model = self._models.get(spec.name)
        labels = model.labels if model else {}
        if spec.version_label not in labels:
            raise RequestError(INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]


def _status(version: int, state: int, error: str = "") -> Any:
    status = State(version=version, state=state)
    status.status.SetInParent()  # error_code 0, said aloud as TensorFlow Serving does
    if error:
        status.status.error_code, status.status.error_message = UNKNOWN, error
    return status


def _collect(alive: Callable[[], Any], version: int, name: str) -> None:
    """Gives back the memory of a version: its Python functions form circles, which hold the variables.

    Not in the thread of the last request, whose own frames hold them still.
    """
    for seconds in (0.05, 0.5, 5.0, 30.0):
        time.sleep(seconds)
        gc.collect()
        if alive() is None:
            _log.info("version %d of model %s is unloaded", version, name)
            return
    _log.warning("version %d of model %s takes no requests any more, but something holds its memory", version, name)


def _content(folder: Path) -> object:
    """What lies in a version's folder: names, sizes, times of change."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # renamed meanwhile
                about = os.stat(os.path.join(parent, name))
                found.append((parent, name, about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))
