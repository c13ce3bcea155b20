"""A SavedModel that is written and loaded in a moment, and whose answers tell its version."""

import shutil

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

MODEL = "tfseq2seq"


class Small(tf.Module):
    """Answers a text with the text, "@" and a mark; a row that is no UTF-8 fails, and "nan" has no score."""

    def __init__(self, mark):
        super().__init__()
        self.mark = tf.Variable(mark)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def answer(self, text):
        letters = tf.strings.unicode_decode(text, "UTF-8", errors="strict")
        lengths = tf.cast(letters.row_lengths(), tf.float32)
        score = tf.where(text == "nan", float("nan"), tf.where(text == "", -float("inf"), -lengths))
        return {"text": tf.strings.join([text, "@", self.mark])[:, None], "score": score[:, None]}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="text"), tf.TensorSpec([None], tf.int64, name="times")]
    )
    def repeat(self, text, times):
        times = tf.clip_by_value(times, 0, 8)
        whole = tf.map_fn(
            lambda row: tf.strings.reduce_join(tf.fill([row[1]], row[0])), (text, times), fn_output_signature=tf.string
        )
        return {"text": whole}


def write_small(folder, version, mark=None):
    """Writes FOLDER/VERSION as `export` does, at once; its mark is the version if none is given."""
    model = Small(str(version) if mark is None else mark)
    aside = folder / f".{version}"
    tf.saved_model.save(model, str(aside), signatures={"serving_default": model.answer, "repeat": model.repeat})
    aside.rename(folder / str(version))
    return folder


def copy_small(small, folder, *versions):
    """`write_small`, without the time of writing it again: of the same mark as `small`/1."""
    for version in versions:
        shutil.copytree(small / "1", folder / str(version))
    return folder


def a_request(*texts, model=MODEL, version=None, label=None, signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, values in {"text": list(texts), **inputs}.items():
        dtype = tf.string if name == "text" else tf.int64
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype, [len(values)]))
    return request


def texts_of(response):
    return [each.decode() for each in response.outputs["text"].string_val]
