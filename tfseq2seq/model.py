"""The model: embeddings around an encoder and a decoder, trained by `compile` and `fit`."""

import contextlib
import math
from typing import Any

import keras
import tensorflow as tf

from tfseq2seq import config as configuration
from tfseq2seq.config import reads_transformer
from tfseq2seq.decoders import make_decoder
from tfseq2seq.distribution import on_several_hosts
from tfseq2seq.encoders import make_encoder
from tfseq2seq.fit_functions import EvaluateFunction, TrainFunction
from tfseq2seq.layers.conformer import ConformerStack
from tfseq2seq.layers.copying import Copier, CopyMemory
from tfseq2seq.layers.embedding import Embedding, FeatureProjection, OutputBias
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.multihead import as_weights, weights_in_logarithms
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.product import using, widen_all
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.losses import alignment_cross_entropy, coverage_loss, ctc_loss, symmetric_divergence
from tfseq2seq.structures import EOS, PAD, UNK
from tfseq2seq.teacher_forcing import TeacherForcing, decode_in_steps, decode_in_two_passes


@keras.saving.register_keras_serializable("tfseq2seq")
class Perplexity(keras.metrics.Mean):
    """exp of the mean of the values it is given, which are nats per token."""

    def result(self):
        return tf.exp(super().result())


@keras.saving.register_keras_serializable("tfseq2seq")
class Seq2Seq(keras.Model):
    """p(target | source), one target token after the other.

    Works with plain Keras: `compile(optimizer, loss=TokenCrossEntropy())`, `fit`, `evaluate`, `save`,
    `load_model`. It is built when it is made. Clipping is the optimizer's `global_clipnorm`, applied here
    to the gradient of the global batch (Keras would clip each replica's own part).

    Args:
        config: `tfseq2seq.config.Model`, or its values as a dict.
        source_vocabulary_size: Number of source ids; or of features a frame, with `source = "features"`.
        target_vocabulary_size: Number of target ids; with `config.copying` those of copies included.
    Call arguments:
        inputs: {"source": [B, S] int32 ids ended by EOS, or [B, S, F + 1] float32 features, the last of which is above
            0 on real frames; "target": [B, T] int32 ids that start with BOS}.
        training: Whether dropout is on.
    Returns:
        [B, T, V] float32 logits of the next token.
    Raises:
        ValueError: tied embeddings between vocabularies of different sizes; in `fit`, a loss that does not
            sum over tokens.
    """

    def __init__(self, config, source_vocabulary_size, target_vocabulary_size, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, configuration.Model):
            config = configuration.Model.model_validate(config)
        self.config = config
        self.source_vocabulary_size, self.target_vocabulary_size = source_vocabulary_size, target_vocabulary_size
        share, width, policy = config.share_embeddings, config.embedding_units, self.dtype_policy
        if share in ("source_target", "all") and source_vocabulary_size != target_vocabulary_size:
            raise ValueError(
                f"share_embeddings = \"{share}\" needs one vocabulary for both sides: set share_tokenizer = true. "
                f"Received: {source_vocabulary_size} source and {target_vocabulary_size} target ids.")
        tied_output = share in ("target_output", "all")
        copies = config.num_copy_ids
        self.target_embedding = Embedding(
            target_vocabulary_size - copies, width, name="target_embedding", dtype=policy)
        if config.source == "features":
            self.source_embedding = FeatureProjection(
                width if config.project_features else None, name="source_embedding", dtype=policy)
        else:
            self.source_embedding = self.target_embedding if share in ("source_target", "all") else Embedding(
                source_vocabulary_size - copies, width, name="source_embedding", dtype=policy)
        self.encoder = make_encoder(config.encoder, name="encoder", dtype=policy)
        self.decoder = make_decoder(config.decoder, width if tied_output else None, name="decoder", dtype=policy)
        self.output_layer = None if tied_output else Linear(
            target_vocabulary_size - copies, name="output_layer", dtype=policy)
        self.output_bias: Any = OutputBias(
            target_vocabulary_size - copies, name="output_bias", dtype=policy) if config.output_bias else None
        self.copier = Copier(copies, name="copier", dtype=policy) if config.copying else None
        self.ctc_layer: Any = Linear(
            target_vocabulary_size - copies, name="ctc_layer", dtype=policy) if config.ctc else None
        self.perplexity = Perplexity(name="perplexity")
        self.token_accuracy = keras.metrics.Mean(name="token_accuracy")
        # Of the last training step, of the global batch, before clipping.
        self.gradient_norm = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.MEAN)
        self.teacher_forcing = TeacherForcing()  # which share of training's steps reads the true token
        self.noise = {}  # by "source" and "target", a `TokenNoise` of what is read there in training
        self.r_drop = 0.0  # weight of the divergence of two passes in training, see `symmetric_divergence`
        self.guided_alignment_weight = 0.0  # of the attention's loss, for batches with "alignment" [B, T, S]
        self.coverage_weight = 0.0  # of attention's loss where it falls twice, see `coverage_loss`
        self.ctc_weight = 0.0  # share of `ctc_loss` in training's loss
        self.distillation: Any = None  # a `Distillation`, whose teacher training learns from beside the references
        self.accumulation_steps = 1  # parts of a batch that `fit` computes one after the other, see `TrainFunction`
        self.moving_average = None  # a `MovingAverage` of the weights, which each training step updates
        self.coins = keras.random.SeedGenerator(name="coins")
        self._traces_of_replicas = {}  # of the training step, by the replica's number
        self.traced_for = ""  # what the last of them is good for, as "[?, 24] -> [?, 20]", source and target; ? is any
        self.build()

    def build(self, input_shape=None):
        """Makes every weight; all widths follow from the constructor's arguments."""
        ids = tf.ones([1, 2], tf.int32)
        source = tf.ones([1, 2, self.source_vocabulary_size + 1]) if self.config.source == "features" else ids
        with tf.init_scope():
            self.call({"source": source, "target": ids})
            if self.ctc_layer is not None:
                self.ctc_layer.build((None, None, self.encoder.output_units))
        self.built = True

    @property
    def num_traces(self):
        """Traces of the training step, whatever the number of replicas; every distinct shape may cost one."""
        return max(self._traces_of_replicas.values(), default=0)

    @property
    def remove_padding(self):
        """Whether the Transformer's layers leave padding out, see `RealSteps`; what is traced later goes by it."""
        return all(stack.remove_padding for stack in self._stacks())

    @remove_padding.setter
    def remove_padding(self, remove):
        for stack in self._stacks():
            stack.remove_padding = remove

    def _stacks(self):
        return [layer for layer in self._flatten_layers() if isinstance(layer, TransformerStack | ConformerStack)]

    def encode(self, source, training=False):
        """[B, S] int32 source ids, or [B, S, F + 1] features, to EncoderOutput."""
        read = source
        if not self.config.source_end:  # an empty source keeps it: attention needs a step to look at
            read = tf.where((source == EOS) & (tf.range(tf.shape(source)[1]) > 0), PAD, source)
        encoded = self.encoder.read(read, self.embed_source, training)
        return encoded if self.copier is None else encoded._replace(source=source)

    def embed_source(self, ids):
        """[...] int32 ids to [..., X], scaled where the recipe says so; or features [B, S, F + 1] to [B, S, X]."""
        if self.config.source == "features":
            return self.source_embedding(ids)
        return self._scaled(self.source_embedding(self._known(ids)), reads_transformer(self.config.encoder))

    def embed_target(self, ids):
        """[...] int32 ids to [..., X], scaled where the recipe says so."""
        return self._scaled(self.target_embedding(self._known(ids)), reads_transformer(self.config.decoder))

    def _known(self, ids):
        """What is read of ids: UNK for a copy."""
        return ids if self.copier is None else tf.where(ids < self.target_embedding.vocabulary_size, ids, UNK)

    def _scaled(self, vectors, by_default):
        scale = self.config.scale_embeddings
        return vectors * self.config.embedding_units**0.5 if (by_default if scale is None else scale) else vectors

    def start(self, encoded, longest=None):
        """What the decoder needs of B sources, once: its memory and its state before the first step.

        Args:
            encoded: EncoderOutput.
            longest: an int, the most steps times hypotheses of a source, makes room for them in the state, whose shapes
                then never change, as XLA needs it.
        """
        memory, state = self.decoder.start(encoded, longest)
        if self.copier is not None:
            copies = self.copier.start(encoded.source, encoded.memory, self.target_embedding.vocabulary_size)
            memory = CopyMemory(memory, copies)
        return memory, state

    def step(self, tokens, state, memory, training=False, **options):
        """One decoding step of N = B * K hypotheses.

        Args:
            tokens: [N] int32, the last token of each; hypotheses of one source side by side.
            state: decoder state of N rows.
            memory: decoder memory of B rows.
            training: whether dropout is on.
            options: what the decoder's own `step` takes beside.
        Returns:
            logits [N, V] float32, the next state, attention weights [N, S] float32.
        """
        return self._step(tokens, state, memory, self._logits, training=training, **options)

    def _step(self, tokens, state, memory, logits_of, **options):
        embedded = self.embed_target(tokens)
        of_decoder = memory if self.copier is None else memory.memory
        output, state, attention = self.decoder.step(embedded, state, of_decoder, **options)
        logits = tf.cast(logits_of(output), tf.float32)
        if self.copier is not None:
            num_rows, num_sources = tf.shape(tokens)[0], tf.shape(memory.copies.tokens)[0]
            sources = tf.range(num_rows) // tf.maximum(num_rows // tf.maximum(num_sources, 1), 1)
            logits = self.copier(logits, output, embedded, attention, memory.copies, sources)
        return logits, state, attention

    def stepper(self, num_rows=None):
        """`step` for a search: the same function of (tokens, state, memory), with what all steps need made once.

        To be called in the graph of the search, before its loop.

        Args:
            num_rows: scalar int32, hypotheses before any leaves; with it kernels are made as so many are fastest with.
        """
        variables = list(self.decoder.weights)
        if self.output_layer is None:
            logits_of = self._tied(self.target_embedding.logits_of_steps(self.compute_dtype, num_rows))
        else:
            logits_of = self.output_layer
            variables += self.output_layer.weights
        kernels = {} if num_rows is None else widen_all(variables, self.compute_dtype, num_rows)

        def step(tokens, state, memory):
            with using(kernels):
                return self._step(tokens, state, memory, logits_of)

        return step

    def call(self, inputs, training=False):
        return self.call_with_attention(inputs, training)[0]

    def call_with_attention(self, inputs, training=False):
        """As `call`, and the attention weights [B, T, S] float32."""
        memory, state = self.start(self.encode(inputs["source"], training))
        return self._decode(inputs["target"], state, memory, training)

    def call_with_sampling(self, inputs, coins, training=False):
        """As `call`, but at some steps the decoder reads the token that it found likeliest itself.

        Args:
            inputs: As of `call`.
            coins: [T, B] bool, or [T] for all rows, True where the true token is read; the first step reads BOS in any
                case.
            training: Whether dropout is on.
        Returns:
            [B, T, V] float32 logits.
        """
        stepwise = hasattr(self.decoder, "noises")
        return (decode_in_steps if stepwise else decode_in_two_passes)(self, inputs, coins, training)

    def decode(self, target, state, memory, training=False):
        """[B, T, V] float32 logits of the tokens that follow those of `target` [B, T], from what `start` gave."""
        return self._decode(target, state, memory, training)[0]

    def call_on_real_steps(self, inputs, steps, training=False, encoded=None):
        """As `call_with_attention`, but logits [R, V] of the real steps alone; `steps` is the target's `RealSteps`.

        `encoded` is the source's EncoderOutput, where that is known.
        """
        memory, state = self.start(self.encode(inputs["source"], training) if encoded is None else encoded)
        return self._decode(inputs["target"], state, memory, training, steps)

    def _decode(self, target, state, memory, training, steps=None):
        """Logits [B, T, V], or [R, V] of `steps`, and attention [B, T, S]."""
        embedded = self.embed_target(target)
        of_decoder = memory if self.copier is None else memory.memory
        output, attention = self.decoder(embedded, state, of_decoder, mask=target != PAD, training=training)
        if self.copier is None:
            return self._logits(output if steps is None else steps.pack(output)), attention
        rows, shape = steps or RealSteps(tf.ones_like(target, tf.bool), remove=False), tf.shape(target)
        sources = tf.zeros_like(target) + tf.range(shape[0])[:, None]
        output, embedded, weights, sources = (
            rows.pack(each) for each in (output, embedded, as_weights(attention), sources))
        logits = self.copier(self._logits(output), output, embedded, weights, memory.copies, sources)
        if steps is None:
            logits = tf.ensure_shape(
                tf.reshape(logits, [shape[0], shape[1], self.target_vocabulary_size]),
                [*target.shape, self.target_vocabulary_size])
        return logits, attention

    def _real_logits(self, inputs, labels, weights, training, encoded=None):
        """Logits [1, R, V] of the R real target steps, with their labels and weights [1, R], and attention [B, T, S].

        There is no attention where the decoder reads what it found itself. `encoded` as of `call_on_real_steps`.
        """
        self.remove_padding = remove = not self.jit_compile  # XLA needs shapes that are known beforehand
        steps = RealSteps(labels != PAD, remove)
        if training and not self.teacher_forcing.always:
            seed = tf.cast(self.coins.next(), tf.int32)
            share = self.teacher_forcing(self.optimizer.iterations)
            coins = tf.transpose(tf.random.stateless_uniform(tf.shape(labels), seed) < share)
            logits, attention = steps.pack(self.call_with_sampling(inputs, coins, training)), None
        else:
            logits, attention = self.call_on_real_steps(inputs, steps, training, encoded)
        # Not [None], whose gradient would copy the logits once more.
        rows = tuple(tf.expand_dims(part, 0) for part in (logits, steps.pack(labels), steps.pack(weights)))
        return *rows, attention

    def _logits(self, output):
        logits_of = self._tied(self.target_embedding.logits) if self.output_layer is None else self.output_layer
        return tf.cast(logits_of(output), tf.float32)

    def _tied(self, product):
        """Logits of the tied table: its product with rows, with the scale and the bias that the recipe says."""
        if self.output_bias is None and not self.config.scale_output:
            return product
        scale = self.config.embedding_units**-0.5 if self.config.scale_output else 1.0

        def logits_of(rows):
            logits = product(rows * scale if self.config.scale_output else rows)
            return logits if self.output_bias is None else self.output_bias(logits)

        return logits_of

    def _resolve_auto_jit_compile(self):
        """Keras' hook for `compile`'s "auto": off, as XLA compiles each shape of a batch anew."""
        return False

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras' hook before the first step: the weights exist, so only the optimizer's are missing.

        Keras' own traces the whole model and, under a strategy, takes and averages a batch of ids.
        """
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        """Keras' hook for what `fit` calls: its own function, or ours where that will not do."""
        if self.accumulation_steps == 1 and not on_several_hosts(self.distribute_strategy):
            super().make_train_function(force)
        elif getattr(self, "train_function", None) is None or force:
            self.train_function = TrainFunction(self, self.accumulation_steps)

    def make_test_function(self, force=False):
        """Keras' hook for what `evaluate` calls: its own function, or ours where that will not do."""
        if not on_several_hosts(self.distribute_strategy):
            super().make_test_function(force)
        elif getattr(self, "test_function", None) is None or force:
            self.test_function = EvaluateFunction(self)

    def train_step(self, data):
        return self.update(self.gradients(*self.unpack(data)))

    def gradients(self, inputs, labels, weights):
        """This replica's part of the gradient, scaled as the optimizer wants it: a tensor a trainable variable."""
        number = tf.distribute.get_replica_context().replica_id_in_sync_group  # an int or, of several, a constant
        number = int(tf.get_static_value(tf.convert_to_tensor(number)))
        self._traces_of_replicas[number] = self._traces_of_replicas.get(number, 0) + 1
        self.traced_for = " -> ".join(_known(inputs[side].shape) for side in ("source", "target"))
        if self.guided_alignment_weight and "alignment" not in inputs:
            raise ValueError(
                "Guided alignment needs inputs[\"alignment\"], [B, T, S] float32, for each label its distribution over "
                f"the source, or 0. Received: inputs {', '.join(inputs)}.")
        taught = None  # what the teacher says of the true tokens, without noise
        if self.distillation is not None:
            taught = self.distillation.teacher_logits(inputs, labels, remove_padding=not self.jit_compile)
        for side, noise in self.noise.items():
            inputs = {**inputs, side: noise(inputs[side], tf.cast(self.coins.next(), tf.int32))}
        copies = 2 if self.r_drop else 1  # each with a dropout of its own
        if copies > 1:
            inputs, labels, weights = tf.nest.map_structure(
                lambda each: tf.concat([each] * copies, 0), (inputs, labels, weights / copies))
        guided = self.guided_alignment_weight
        with tf.GradientTape() as tape:
            encoded = self.encode(inputs["source"], training=True) if self.ctc_weight else None
            with weights_in_logarithms() if guided else contextlib.nullcontext():
                logits, real_labels, real_weights, attention = self._real_logits(
                    inputs, labels, weights, training=True, encoded=encoded)
            loss = self._token_loss(real_labels, logits, real_weights, copies)
            if taught is not None:
                loss = self.distillation.mix(loss, logits[0], taught, real_weights[0], copies)
            if copies > 1:
                loss += 0.5 * self.r_drop * symmetric_divergence(logits[0], copies * real_weights[0])
            if guided:
                loss += guided * alignment_cross_entropy(attention, inputs["alignment"], weights)
            if self.coverage_weight:
                loss += self.coverage_weight * coverage_loss(tf.exp(attention) if guided else attention, weights)
            if encoded is not None:
                said = ctc_loss(tf.cast(self.ctc_layer(encoded.memory), tf.float32), encoded.mask, labels, weights)
                loss = (1.0 - self.ctc_weight) * loss + self.ctc_weight * said
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, self.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def update(self, gradients):
        """Steps by the sum of all replicas' gradients; returns the metrics."""
        gradients, norm = self._reduce_and_clip(gradients)
        self.gradient_norm.assign(norm)
        self.optimizer.apply(gradients, self.trainable_variables)
        if self.moving_average is not None:
            self.moving_average.update(self.optimizer.iterations)
        return self.get_metrics_result()

    def test_step(self, data):
        inputs, labels, weights = self.unpack(data)
        logits, labels, weights, _ = self._real_logits(inputs, labels, weights, training=False)
        # Batches of more tokens count more; training's steps count alike.
        self._token_loss(labels, logits, weights, share=_sum_of_replicas(_count_tokens(labels)))
        return self.get_metrics_result()

    def unpack(self, data):
        """Inputs, labels and weights [B, T] of what `fit` is given, the weights made where they are missing."""
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if not hasattr(self.loss, "per_token"):
            raise ValueError(
                "Seq2Seq needs a loss that sums over tokens, as its weights already hold 1 / (tokens of the global "
                f"batch): compile with loss=tfseq2seq.TokenCrossEntropy(). Received: loss={self.loss!r}.")
        if weights is not None and len(weights.shape) != 2:
            raise ValueError(
                "Seq2Seq needs sample weights of [B, T], on each real token 1 / (real tokens of the global batch); "
                f"leave them out to have them made. Received: shape {tuple(weights.shape)}.")
        if weights is None:
            count = _sum_of_replicas(_count_tokens(labels))
            weights = tf.math.divide_no_nan(tf.cast(labels != PAD, tf.float32), count)
        return inputs, labels, weights

    def _token_loss(self, labels, logits, weights, copies=1, share=1.0):
        """This replica's part of the loss per token; the other metrics count real tokens, once for all copies.

        The weights of all parts of a batch sum to 1, so that the loss shown is that of the whole batch, of which
        `share` says how much it counts among others.
        """
        losses, nats, correct = self.loss.per_token(labels, logits)
        loss, total = tf.reduce_sum(losses * weights), tf.reduce_sum(weights)
        self._loss_tracker.update_state(tf.math.divide_no_nan(loss, total), sample_weight=share * total)
        mask = tf.cast(labels != PAD, tf.float32) / copies
        for metric, values in ((self.perplexity, nats), (self.token_accuracy, correct)):
            # Flat: of more axes Keras would count the rows.
            metric.update_state(tf.reshape(values, [-1]), sample_weight=tf.reshape(mask, [-1]))
        return loss

    def _reduce_and_clip(self, gradients):
        """Sums over replicas, then clips, so that clipping sees the gradient of the global batch.

        The optimizer sums over replicas once more, hence the division at the end.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
        optimizer, scale = self.optimizer, 1.0
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            scale = tf.convert_to_tensor(optimizer.dynamic_scale)
            optimizer = optimizer.inner_optimizer
        norm = tf.linalg.global_norm(gradients) / scale
        factor = 1.0 / replicas
        if optimizer.global_clipnorm:
            factor *= tf.minimum(1.0, tf.math.divide_no_nan(optimizer.global_clipnorm, norm))
        if replicas > 1 or optimizer.global_clipnorm:
            gradients = [gradient * factor for gradient in gradients]
        return gradients, norm

    def count_tokens(self):
        """Real target tokens since the metrics were last reset, as in this `fit` epoch.

        Of the global batches; with several hosts as many for each as this one had, which asks no other.
        """
        strategy = self.distribute_strategy
        local = strategy.experimental_local_results(self.token_accuracy.count.value)
        return float(sum(local)) * strategy.num_replicas_in_sync / len(local)

    def count_parameters(self):
        """Number of trainable scalars."""
        return sum(math.prod(variable.shape) for variable in self.trainable_variables)

    def get_config(self):
        return {
            **super().get_config(), "config": self.config.model_dump(),
            "source_vocabulary_size": self.source_vocabulary_size,
            "target_vocabulary_size": self.target_vocabulary_size}


def _count_tokens(labels):
    return tf.reduce_sum(tf.cast(labels != PAD, tf.float32))


def _sum_of_replicas(value):
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce("sum", value)


def _known(shape):
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def build_model(config, source_vocabulary_size, target_vocabulary_size, precision="float32"):
    """Makes a `Seq2Seq`, built and ready for `compile`.

    Args:
        config: `tfseq2seq.config.Model`.
        source_vocabulary_size: Number of source ids, or of features a frame.
        target_vocabulary_size: Number of target ids.
        precision: Keras dtype policy: "float32", "mixed_float16" or "mixed_bfloat16".
    """
    return Seq2Seq(config, source_vocabulary_size, target_vocabulary_size, dtype=precision)
