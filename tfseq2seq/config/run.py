"""A whole recipe: its top level, and the tables of data, training, decoding and export."""

import math
import re
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from tfseq2seq.config.audio import Audio, SpecAugment
from tfseq2seq.config.model import Model, longest, shortens
from tfseq2seq.config.table import NonNegative, NonNegativeInt, PositiveInt, Rate, Table


class Tokenizer(Table):
    """How one side's text becomes ids."""

    kind: Literal["unigram", "bpe", "characters", "bytes", "words"] = "unigram"
    vocabulary_size: Annotated[int, Field(ge=8)] = 8000  # an upper bound for characters and words; bytes have 260
    case: Literal["keep", "lower", "upper"] = "keep"  # applied in the graph, before encoding


class Origin(Table):
    """Where pairs come from.

    Name exactly one of `corpus` (a data set that `pipelines.sources` can obtain), `folder` (holding
    train, valid and test files) or `train` (with `valid`, and `test` if there is one).
    """

    corpus: str | None = None
    pair: str | None = None  # languages of the corpus, as "en-fr"
    folder: str | None = None
    train: str | list[str] | None = None  # one .tsv/.jsonl file, or [source file, target file], or several sources
    valid: str | list[str] | None = None
    test: str | list[str] | None = None


class DataSet(Origin):
    """One of several sets of pairs, see `Data.sets`."""

    # Put before each source, and one token to a tokenizer of subwords or words, as "<2de>" for the language asked for
    # (Johnson et al., 2017) or "<bt>" for what was translated back (Caswell et al., 2019); or several, one by one.
    source_tag: str | list[str] | None = None
    weight: NonNegative = 1.0  # of each of its pairs in the loss

    @property
    def source_tags(self) -> list[str]:
        if self.source_tag is None:
            return []
        return [self.source_tag] if isinstance(self.source_tag, str) else self.source_tag

    @pydantic.model_validator(mode="after")
    def _tags_are_words(self):
        for tag in self.source_tags:
            if tag.split() != [tag]:
                raise ValueError(
                    "source_tag needs a tag without white space, as \"<2de>\", or a list of them. Received: "
                    f"{self.source_tag!r}")
        return self


class Data(Origin):
    """Where the pairs come from, and what is done to them before training."""

    sets: list[DataSet] = []  # several origins, in the place of one
    # Of mixing the sets: one of n pairs has a share of each epoch in proportion to n^(1 / temperature). At 1 each pair
    # comes once, above it small sets come more often (Arivazhagan et al., 2019).
    temperature: Annotated[float, Field(gt=0)] = 1.0
    alignments: str | None = None  # a file with a line a train pair, "0-0 1-2": source word - target word, from 0
    audio: Audio | None = None  # sources are recordings: paths of WAV or FLAC files, which become features
    source_tokenizer: Tokenizer = Tokenizer()
    target_tokenizer: Tokenizer = Tokenizer()
    tokenizers_from: str | None = None  # a run folder whose tokenizers are used; then none is trained
    share_tokenizer: bool = False  # one vocabulary for both sides, trained on both
    source_separator: Annotated[str, Field(pattern=r"\S")] | None = None  # between the sources of one line, as "|||"
    max_source_length: PositiveInt = 128  # tokens, end token included, or frames; longer pairs are left out
    max_target_length: PositiveInt = 128
    filter: bool = True  # drop what `check` calls broken: empty, badly-ratioed, control characters, leaked
    batch_tokens: PositiveInt = 4096  # padded tokens, or frames, of the wider side in one global batch
    num_lengths: PositiveInt = 4  # distinct padded lengths a side: each pair of lengths is one trace


class Train(Table):
    """How the weights are found."""

    steps: PositiveInt = 10_000
    max_minutes: Annotated[float, Field(gt=0)] | None = None  # stop early, with an evaluation, after this long
    evaluate_every: PositiveInt = 500  # steps; checkpoints and the metric come at this pace
    checkpoint_every: PositiveInt | None = None  # steps; default: evaluate_every
    keep_checkpoints: PositiveInt = 3
    optimizer: Literal[
        "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion", "muon", "nadam",
        "rmsprop", "sgd"] = "adam"
    optimizer_options: dict[str, bool | int | float | list[str]] = {}  # by their names in Keras: { weight_decay = 0.1 }
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # the peak; for noam the factor
    schedule: Literal[
        "constant", "inverse_square_root", "noam", "linear", "cosine", "plateau"] = "inverse_square_root"
    plateau_patience: PositiveInt = 3  # of "plateau": evaluations without a better metric before the rate is cut
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of "plateau": what it is multiplied by
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    label_smoothing: Rate = 0.1
    # Share of steps that read the true token, the others what the model found likeliest (Bengio et al., 2015). It is
    # "constant", or falls to the ratio: 1 - k i after i optimizer steps, or k^i, or k / (k + exp(i / k)).
    teacher_forcing_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    teacher_forcing_schedule: Literal["constant", "linear", "exponential", "inverse_sigmoid"] = "constant"
    teacher_forcing_k: Annotated[float, Field(gt=0)] | None = None
    r_drop: NonNegative = 0.0  # alpha of R-Drop, as 5: two passes a step must say the same (Wu et al., 2021)
    teacher: str | None = None  # a run folder with the same vocabularies, whose best weights say what is likely
    # Of word-level distillation (Kim & Rush, 2016): the teacher's share of the loss, the rest is the reference's; and
    # what both logits are divided by there (Hinton et al., 2015).
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    teacher_temperature: Annotated[float, Field(gt=0)] = 1.0
    # Of the cross-entropy between data.alignments and the attention (Chen et al., 2016), beside the loss.
    guided_alignment_weight: NonNegative = 0.0
    coverage_weight: NonNegative = 0.0  # of attention that falls where it fell before (See et al., 2017; 1 there)
    source_word_dropout: Rate = 0.0  # share of the source tokens that training replaces by the unknown one
    target_word_dropout: Rate = 0.0  # the same of the tokens that the decoder reads
    source_token_noise: Rate = 0.0  # share of the source tokens that it replaces by random ones
    target_token_noise: Rate = 0.0
    spec_augment: SpecAugment | None = None  # parts of the features that training hides
    # Lambda of the joint loss: its share is CTC's, over the memory, the rest the decoder's (Watanabe et al., 2017).
    ctc_weight: Rate = 0.0
    # Draws the subwords of each batch anew; 0 is off. Unigram: alpha of subword regularisation, as 0.2, small for more
    # variety (Kudo, 2018). BPE: the share of merges left out, as 0.1 (BPE dropout, Provilkov et al., 2020).
    source_subword_alpha: NonNegative = 0.0
    target_subword_alpha: NonNegative = 0.0
    freeze: list[Literal["source_embedding", "target_embedding", "encoder", "decoder", "output_layer"]] = []
    start_from: str | None = None  # a run folder with the same [model], whose best weights training begins with
    # Parts of each batch that are computed one after the other, in less memory; the step is the same.
    accumulation_steps: PositiveInt = 1
    clip_norm: NonNegative = 1.0  # largest global gradient norm; 0 turns clipping off
    # What chooses the best checkpoint: a metric, or "loss", "perplexity" or "token_accuracy"; default: the task's own.
    metric: str | None = None
    patience: PositiveInt | None = None  # evaluations without a better metric before training stops
    # Of an exponential moving average of the weights, which is then what is evaluated, and answers; as 0.999.
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Times that a diverged training goes back to the last checkpoint, to go on at half of the rate.
    divergence_retries: Annotated[int, Field(ge=0)] = 3
    valid_lines: PositiveInt = 1000  # held-out lines decoded at each evaluation
    profile_steps: list[PositiveInt] | None = None  # the first and the last of a TensorBoard profile, as [100, 110]
    # Where `tfseq2seq feed` makes the batches, as "grpc://host:5050", or several that take turns; default: training.
    data_service: str | list[str] | None = None
    replicas: PositiveInt | None = None  # default: every visible device
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    seed: Annotated[int, Field(ge=0)] = 1

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        ranges = {"linear": (0.0, 1.0), "exponential": (0.0, 1.0), "inverse_sigmoid": (1.0, math.inf)}
        kind, k = self.teacher_forcing_schedule, self.teacher_forcing_k
        low, high = ranges.get(kind, (math.nan, math.nan))
        if (k is not None) != (kind in ranges) or (k is not None and not low <= k <= high):
            raise ValueError(
                "teacher_forcing_k is at most 1 for teacher_forcing_schedule = \"linear\" and \"exponential\", at "
                "least 1 for \"inverse_sigmoid\", and not for \"constant\". Received: "
                f"teacher_forcing_k={k}, schedule = \"{kind}\"")
        if self.teacher is None and (self.teacher_weight, self.teacher_temperature) != (0.5, 1.0):
            raise ValueError(
                "teacher_weight and teacher_temperature need a teacher: set it to a run folder. Received: "
                f"teacher_weight={self.teacher_weight}, teacher_temperature={self.teacher_temperature}")
        for side in ("source", "target"):
            dropout, noise = (getattr(self, f"{side}_{name}") for name in ("word_dropout", "token_noise"))
            if dropout + noise > 1:
                raise ValueError(
                    f"{side}_word_dropout and {side}_token_noise must be at most 1 together. Received: "
                    f"{dropout} and {noise}")
        if kind in ranges and self.teacher_forcing_ratio == 1:
            raise ValueError(
                "teacher_forcing_ratio is the least share that a schedule falls to: set it below 1, as 0. Received: "
                f"teacher_forcing_ratio = 1 with teacher_forcing_schedule = \"{kind}\"")
        services = [self.data_service] if isinstance(self.data_service, str) else self.data_service
        if services is not None and not (services and all(re.fullmatch(r"grpc://\S+:\d+", each) for each in services)):
            raise ValueError(
                "data_service needs addresses that `tfseq2seq feed` prints, as \"grpc://host:5050\". Received: "
                f"{self.data_service!r}")
        profiled = self.profile_steps
        if profiled is not None and (len(profiled) != 2 or profiled[0] > profiled[1]):
            raise ValueError(
                f"profile_steps needs two steps, the first and the last one, as [100, 110]. Received: {profiled}")
        if self.schedule in ("noam", "inverse_square_root") and self.warmup_steps < 1:
            raise ValueError(
                f"schedule = \"{self.schedule}\" needs warmup_steps of at least 1. Received: {self.warmup_steps}")
        if self.schedule in ("linear", "cosine") and self.steps <= self.warmup_steps:
            raise ValueError(
                f"schedule = \"{self.schedule}\" needs more steps than warmup_steps; set both. "
                f"Received: steps={self.steps}, warmup_steps={self.warmup_steps}")
        return self


class Decode(Table):
    """How hypotheses are searched and ranked, see docs/decoding.md."""

    method: Literal["beam", "sample"] = "beam"
    beam_size: Annotated[int, Field(ge=1, le=256)] = 4  # 1 is greedy search; with "sample", the number of draws
    num_hypotheses: PositiveInt = 1  # answers a source, at most beam_size
    length_penalty: NonNegative = 0.6  # alpha, Wu et al., 2016, eq. 14; 0 turns it off
    length_penalty_kind: Literal["gnmt", "length", "none"] = "gnmt"  # ((5 + n) / 6)^alpha, n^alpha, 1
    coverage_penalty: NonNegative = 0.0  # beta, Wu et al., 2016, eq. 14; 0 turns it off
    max_length: PositiveInt = 128  # target tokens, end token included
    max_length_ratio: Annotated[float, Field(gt=0)] | None = None  # target tokens for each source token, at most
    min_length: PositiveInt = 1  # target tokens, end token included
    min_length_ratio: Annotated[float, Field(gt=0)] | None = None  # target tokens for each source token, at least
    num_groups: PositiveInt = 1  # diverse groups of beams (Vijayakumar et al., 2018); divides beam_size
    diversity_strength: NonNegative = 0.5  # what a token loses for each group before that took it, in nats
    # Which live hypotheses may end at a step, and which go on, see docs/decoding.md.
    finish: Literal["all", "best", "narrow", "shared"] = "all"
    end_length: NonNegativeInt = 1  # how many tokens the end token counts as in the length penalty
    # When the search for a source ends; "bound" loses nothing.
    stop: Literal["bound", "current", "first", "top"] = "bound"
    # Finished hypotheses of a group that `stop` waits for; default: those wanted, or without "bound" as many as beams.
    wait_for: PositiveInt | None = None
    temperature: NonNegative = 1.0  # of "sample"; 0 takes the likeliest token
    top_k: Annotated[int, Field(ge=0)] = 0  # of "sample": how many tokens may be drawn; 0 is all
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # of "sample": share of the probability that may be drawn
    min_p: Rate = 0.0  # of "sample": least probability, as a share of the likeliest token's
    seed: int = 1  # of "sample"; the draws of a source depend on it and on the source's text alone
    minimum_risk: Literal["chrf", "bleu"] | None = None  # of "sample": rank by likeness to all other draws
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0  # Keskar et al., 2019; 1 turns it off
    block_ngrams: Annotated[int, Field(ge=0)] = 0  # no n target tokens twice; 0 turns it off
    forbidden: list[str] = []  # words and phrases that no answer contains, as the target tokenizer cuts them
    forbidden_ids: list[Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]] = []  # the same, as ids
    # Ids that no answer begins with, after what the target tokenizer puts before it; the end token may be one.
    forbidden_first: list[Annotated[int, Field(ge=1)]] = []
    renormalize: bool = False  # what constraints forbid goes to the other tokens, also in scores (as in CTranslate2)
    free_end: bool = False  # the end token that max_length forces costs nothing (as Marian's and BART's forced end)
    cut: bool = False  # an answer may be cut at max_length tokens, without an end token (as in Transformers)
    # Whether tokens that the target tokenizer puts before every answer count in the length penalty.
    count_prefix: bool = True
    only_from: str | None = None  # a file with one string a line; each answer is one of them
    replace_unknown: bool = False  # put the source token with the most attention in the place of an unknown one
    others: list[str] = []  # folders of runs with the same tokenizers, whose best checkpoints answer along
    weights: list[Annotated[float, Field(gt=0)]] | None = None  # of this run and the others; default: all alike
    ensemble: Literal["log_linear", "linear"] = "log_linear"  # mean of log-probabilities, or of probabilities
    batch_tokens: PositiveInt = 4096  # padded source tokens decoded at once by evaluate and predict
    parts: PositiveInt = 1  # searches that a batch is divided into, at once: for servers on so many cores
    jit_compile: bool = False  # XLA compiles the search for a source that comes alone, at the first of its length

    @property
    def most_steps(self) -> int:
        """Steps of a search: tokens, and the end of an answer that is cut."""
        return self.max_length + self.cut

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.num_hypotheses > self.beam_size:
            raise ValueError(
                f"num_hypotheses must be at most beam_size. Received: num_hypotheses={self.num_hypotheses}, "
                f"beam_size={self.beam_size}")
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length must be at most max_length. Received: min_length={self.min_length}, "
                f"max_length={self.max_length}")
        if self.beam_size % self.num_groups:
            raise ValueError(
                f"num_groups must divide beam_size. Received: num_groups={self.num_groups}, beam_size={self.beam_size}")
        if self.method == "sample" and self.num_groups > 1:
            raise ValueError(
                "num_groups belongs to method = \"beam\": draws are independent of each other. "
                f"Received: num_groups={self.num_groups}")
        if self.finish == "shared" and (self.num_groups > 1 or self.stop != "bound" or self.wait_for is not None):
            raise ValueError(
                "finish = \"shared\" ends when all places are finished: leave out num_groups, stop and wait_for. "
                f"Received: num_groups={self.num_groups}, stop=\"{self.stop}\", wait_for={self.wait_for}")
        if self.method == "sample" and (self.finish, self.stop, self.wait_for) != ("all", "bound", None):
            raise ValueError(
                "finish, stop and wait_for belong to method = \"beam\": each draw ends by itself. "
                f"Received: finish=\"{self.finish}\", stop=\"{self.stop}\", wait_for={self.wait_for}")
        if self.cut and (self.free_end or self.only_from is not None):
            raise ValueError(
                "cut lets answers stay without an end: leave out free_end and only_from. Received: "
                f"free_end={self.free_end}, only_from={self.only_from!r}")
        if self.jit_compile and self.only_from is not None:
            raise ValueError(
                "jit_compile = true does not work with only_from, as XLA cannot follow a list of answers: set it to "
                f"false. Received: only_from={self.only_from!r}")
        if self.weights is not None and len(self.weights) != 1 + len(self.others):
            raise ValueError(
                "weights needs one number for this run and one for each of others. "
                f"Received: {len(self.weights)} weights, {len(self.others)} others")
        if self.method == "beam" and self.minimum_risk is not None:
            raise ValueError(
                "minimum_risk needs method = \"sample\": it compares draws. "
                f"Received: minimum_risk=\"{self.minimum_risk}\", method=\"beam\"")
        if self.method == "beam" and (self.temperature, self.top_k, self.top_p, self.min_p) != (1.0, 0, 1.0, 0.0):
            raise ValueError(
                "temperature, top_k, top_p and min_p need method = \"sample\"; a beam search draws nothing. "
                f"Received: temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}, min_p={self.min_p}")
        return self


class Export(Table):
    """What the SavedModel holds."""

    # Width of the answers of serving_default, at most decode.beam_size; default: all of the beam, 4 of a wider one.
    num_hypotheses: PositiveInt | None = None
    max_source_length: PositiveInt = 256  # tokens, or frames; longer requests are cut here
    check_lines: PositiveInt = 32  # held-out lines replayed through checkpoint and SavedModel, and kept in it
    warm_up_lines: PositiveInt = 5  # of these, short to long, that a server answers before it is ready
    weights: Literal["float32", "float16", "bfloat16", "int8"] = "float32"  # as stored; computed with in float32
    score_lines: PositiveInt = 200  # held-out lines that tell what other weights than float32 lose
    largest_loss: NonNegative = 1.0  # in points of the task's first metric; an export that loses more is refused


class Run(Table):
    """A whole recipe: the top level of the TOML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str = "translation"
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    decode: Decode = Decode()
    export: Export = Export()

    @property
    def num_exported(self) -> int:
        """Hypotheses of serving_default."""
        return self.export.num_hypotheses or min(4, self.decode.beam_size)

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        shared = self.data.share_tokenizer or self.data.tokenizers_from is not None
        if self.model.share_embeddings in ("source_target", "all") and not shared:
            raise ValueError(
                "model.share_embeddings = \"" + self.model.share_embeddings + "\" needs data.share_tokenizer = true: "
                "one table can only serve one vocabulary. Received: share_tokenizer = false")
        if self.model.copying and not self.data.share_tokenizer:
            raise ValueError(
                "model.copying needs data.share_tokenizer = true: what is copied must be a token of the target. "
                "Received: share_tokenizer = false")
        if (self.train.jit_compile and self.train.teacher_forcing_ratio < 1
                and self.model.decoder.kind != "transformer"):
            raise ValueError(
                "train.jit_compile = true does not work with teacher_forcing_ratio below 1 and a decoder that goes "
                "step by step, as XLA needs to know the number of steps beforehand: set it to false. Received: "
                f"teacher_forcing_ratio={self.train.teacher_forcing_ratio}, decoder.kind = "
                f"\"{self.model.decoder.kind}\"")
        self._check_alignments()
        if self.train.coverage_weight and self.model.decoder.kind == "recurrent":
            raise ValueError(
                "train.coverage_weight needs a decoder with attention: \"attentional\" or \"transformer\". Received: "
                f"coverage_weight={self.train.coverage_weight}, decoder.kind = \"recurrent\"")
        if self.train.coverage_weight and self.train.teacher_forcing_ratio < 1:
            raise ValueError(
                "train.coverage_weight needs the true tokens, over whose steps attention is summed: set "
                f"teacher_forcing_ratio = 1. Received: teacher_forcing_ratio={self.train.teacher_forcing_ratio}")
        self._check_audio()
        if self.data.temperature != 1 and not self.data.sets:
            raise ValueError(
                "data.temperature mixes data.sets: name several, or leave it out. Received: temperature = "
                f"{self.data.temperature}, no sets")
        for name in ("coverage_penalty", "replace_unknown"):
            if getattr(self.decode, name) and self.model.decoder.kind == "recurrent":
                raise ValueError(
                    f"decode.{name} needs a decoder with attention: \"attentional\" or \"transformer\". Received: "
                    f"{name}={getattr(self.decode, name)}, decoder.kind = \"recurrent\"")
        for side in ("source", "target"):
            alpha = getattr(self.train, f"{side}_subword_alpha")
            kind = (self.data.source_tokenizer if self.data.share_tokenizer else getattr(
                self.data, f"{side}_tokenizer")).kind
            if alpha and (kind not in ("unigram", "bpe") or kind == "bpe" and alpha >= 1):
                raise ValueError(
                    f"train.{side}_subword_alpha draws subwords, of a tokenizer of kind \"unigram\", or below 1 of "
                    f"kind \"bpe\". Received: {side}_subword_alpha={alpha}, kind = \"{kind}\"")
        several = self.data.source_separator is not None
        if several != (self.model.encoder.kind == "parallel"):
            raise ValueError(
                "data.source_separator and model.encoder.kind = \"parallel\" belong together: one says where a line is "
                "cut into sources, the other reads them. Received: source_separator = "
                f"{self.data.source_separator!r}, encoder.kind = \"{self.model.encoder.kind}\"")
        for name, compiled in (("train", self.train.jit_compile), ("decode", self.decode.jit_compile)):
            if several and compiled:
                raise ValueError(
                    f"{name}.jit_compile = true does not work with a parallel encoder, as XLA cannot cut rows into "
                    "sources: set it to false. Received: encoder.kind = \"parallel\"")
        for side, table, lengths in (
                ("encoder", self.model.encoder, (self.data.max_source_length, self.export.max_source_length)),
                # The signature "score" reads targets as long as sources.
                ("decoder", self.model.decoder, (
                    self.data.max_target_length, self.decode.most_steps,
                    0 if self.model.source == "features" else self.export.max_source_length))):
            limit = longest(table)
            if limit is not None and limit < max(lengths):
                raise ValueError(
                    f"model.{side}.max_positions must reach the longest {side} input, {max(lengths)} tokens (data, "
                    f"decode and export set them). Received: max_positions = {limit}")
        if self.num_exported > self.decode.beam_size:
            raise ValueError(
                "export.num_hypotheses must be at most decode.beam_size; set both, or leave it out to follow the beam. "
                f"Received: export.num_hypotheses={self.export.num_hypotheses}, "
                f"decode.beam_size={self.decode.beam_size}")
        return self

    def _check_audio(self):
        data, train, model = self.data, self.train, self.model
        if (data.audio is None) == (model.source == "features"):
            raise ValueError(
                "[data.audio] and model.source = \"features\" belong together: one makes recordings features, the "
                f"other reads them. Received: model.source = \"{model.source}\"")
        if model.ctc != (train.ctc_weight > 0):
            raise ValueError(
                "model.ctc = true and train.ctc_weight above 0 belong together. Received: "
                f"ctc={str(model.ctc).lower()}, ctc_weight={train.ctc_weight}")
        if train.ctc_weight and train.teacher_forcing_ratio < 1:
            raise ValueError(
                "train.ctc_weight needs teacher_forcing_ratio = 1. Received: "
                f"teacher_forcing_ratio={train.teacher_forcing_ratio}")
        if data.audio is None:
            if train.spec_augment is not None:
                raise ValueError("train.spec_augment hides features and needs [data.audio]. Received: none")
            return
        for name, value in (
                ("data.share_tokenizer", data.share_tokenizer), ("data.alignments", data.alignments),
                ("data.sets", any(each.source_tag for each in data.sets)), ("decode.replace_unknown",
                self.decode.replace_unknown), ("train.source_word_dropout", train.source_word_dropout),
                ("train.source_token_noise", train.source_token_noise),
                ("train.source_subword_alpha", train.source_subword_alpha)):
            if value:
                raise ValueError(
                    f"{name} is of sources that are text: leave it out with [data.audio]. Received: {value!r}")

    def _check_alignments(self):
        weight = self.train.guided_alignment_weight
        if (self.data.alignments is None) == (weight > 0):
            raise ValueError(
                "data.alignments and train.guided_alignment_weight belong together: set both or none. Received: "
                f"alignments={self.data.alignments!r}, guided_alignment_weight={weight}")
        positions = {"train.guided_alignment_weight": weight, "decode.replace_unknown": self.decode.replace_unknown}
        for name, value in positions.items():
            if value and shortens(self.model.encoder):
                raise ValueError(
                    f"{name} needs an encoder with a step for each source token, neither \"subsampling\" nor "
                    f"\"pyramidal\". Received: encoder.kind = \"{self.model.encoder.kind}\"")
        if not weight:
            return
        if self.model.decoder.kind == "recurrent":
            raise ValueError(
                "train.guided_alignment_weight needs a decoder with attention: \"attentional\" or \"transformer\". "
                f"Received: guided_alignment_weight={weight}, decoder.kind = \"recurrent\"")
        if self.train.teacher_forcing_ratio < 1:
            raise ValueError(
                "train.guided_alignment_weight needs the true tokens, whose alignment is known: set "
                f"teacher_forcing_ratio = 1. Received: teacher_forcing_ratio={self.train.teacher_forcing_ratio}")
        if self.data.sets:
            raise ValueError(
                "data.alignments goes with one origin of pairs: leave out data.sets. Received: "
                f"{len(self.data.sets)} sets")
        if self.train.source_subword_alpha or self.train.target_subword_alpha:
            raise ValueError(
                "data.alignments needs tokens that stay: set source_subword_alpha and target_subword_alpha to 0. "
                f"Received: {self.train.source_subword_alpha} and {self.train.target_subword_alpha}")
        if self.data.source_separator is not None:
            raise ValueError(
                "data.alignments needs lines of one source: leave out data.source_separator. Received: "
                f"source_separator={self.data.source_separator!r}")
