"""Subwords learned by sentencepiece and applied by TensorFlow Text."""

import hashlib
import io
import random
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import sentencepiece
import tensorflow as tf
import tensorflow_text
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

from tfseq2seq.structures import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from tfseq2seq.tokenizers.base import UNKNOWN_TEXT, LearnedTokenizer, TokenizerConfig, cleaned, nothing_to_train_on
from tfseq2seq.tokenizers.sampling import SPACE, BpeSampler, TextSampler, UnigramSampler

TRAINING_STRINGS = 2_000_000  # sentencepiece holds all it learns from in memory: more is sampled down to this

BYTE = re.compile("<0x[0-9A-F]{2}>")  # the name of a byte

PATH_LENGTH = 256  # of the rule files that are handed to the trainer

# Sentencepiece writes a space as U+2581 and would read a real U+2581 as a space. Its normaliser therefore
# writes a real one as U+FDD0 "1" (a code point that no text should hold) and a real U+FDD0 as U+FDD0 "0".
# "from<tab>to", code points in hexadecimal; the second table undoes the first.
NORMALIZATION = "2581\tFDD0 31\nFDD0\tFDD0 30\n"
DENORMALIZATION = "FDD0 31\t2581\nFDD0 30\tFDD0\n"


class _SharedModel(tf.saved_model.experimental.TrackableResource):
    """The loaded sentencepiece model, under a name of its own that follows from its content.

    TensorFlow Text lets the operation's kernel own it, and a kernel goes whenever TensorFlow clears its caches:
    after `tf.random.set_seed`, say, each tokenizer made before fails with "Resource ... does not exist".
    """

    def __init__(self, model: bytes):
        super().__init__()
        self._model = model
        _ = self.resource_handle  # made here and now, not in the first graph that asks for it

    def _create_resource(self):
        name = "sentencepiece-" + hashlib.sha256(self._model).hexdigest()
        return gen_sentencepiece_tokenizer.sentencepiece_op(model=self._model, shared_name=name)


class SentencepieceTokenizer(LearnedTokenizer):
    """Subwords: unigram (Kudo, 2018, arXiv:1804.10959) or byte-pair encoding (Sennrich et al., 2016,
    arXiv:1508.07909), trained by sentencepiece (Kudo and Richardson, 2018, arXiv:1808.06226).

    Characters that are not in the vocabulary are spelled in bytes. As is usual, each text is read with a
    space in front, so that its first word is the same piece as anywhere else. Sentencepiece's own
    option for that (add_dummy_prefix) takes every leading space away in decoding; so it is done here.
    The saved model gives plain sentencepiece the same ids for `" " + text`.

    Args:
        kind: "unigram" or "bpe".
        case: "keep", "lower" or "upper".
        model: the serialised sentencepiece model.
    """

    file = "sentencepiece.model"

    def __init__(self, kind: str, case: str, model: bytes):
        super().__init__(kind, case)
        self._model = model
        self._pieces = tensorflow_text.SentencepieceTokenizer(model=model)
        self._pieces._model_resource = _SharedModel(model)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._names = tuple(self._processor.id_to_piece(id_) for id_ in range(self._processor.vocab_size()))

    @classmethod
    def train(cls, config: TokenizerConfig, strings: Iterable[str], symbols: Sequence[str] = ()) -> Self:
        sentences = [b" " + string for string in cleaned(config.case, strings) if string]
        if not sentences:
            raise nothing_to_train_on(config)
        if len(sentences) > TRAINING_STRINGS:
            sentences = random.Random(0).sample(sentences, TRAINING_STRINGS)
        pieces = [_normalize(symbol.decode()) for symbol in cleaned(config.case, dict.fromkeys(symbols))]
        model = _train_sentencepiece(config.kind, config.vocabulary_size, sentences, pieces)
        return cls(config.kind, config.case, model)

    @classmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        return cls(kind, case, content)

    def content(self) -> bytes:
        return self._model

    @property
    def vocabulary_size(self) -> int:
        return len(self._names)

    def vocabulary(self) -> list[str]:
        return list(self._names)

    def surfaces(self, strings):
        ids = self.encode(strings)
        texts = tf.constant([
            bytes([int(name[3:5], 16)]) if BYTE.fullmatch(name) else name.replace("▁", " ").encode()
            for name in self._names])
        return ids.with_flat_values(tf.gather(texts, ids.flat_values))

    def _encode(self, strings):
        strings = self._clean(strings)
        spaced = tf.where(strings == "", strings, tf.strings.join([" ", strings]))
        return self._pieces.tokenize(spaced)

    def sampler(self, alpha: float) -> TextSampler:
        """What draws segmentations of texts, outside the graph.

        Args:
            alpha: for unigram that of `UnigramSampler`, above 0; for BPE that of `BpeSampler`, in (0, 1).
        """
        first_byte = self._names.index("<0x00>")  # the symbols stand between the special tokens and the bytes
        symbols = self._names[len(SPECIAL_TOKENS) : first_byte]
        ids = {
            name: [id_] for id_, name in enumerate(self._names)
            if id_ >= len(SPECIAL_TOKENS) and not self._processor.is_byte(id_)}
        scores = {name: self._processor.get_score(id_) for name, (id_,) in ids.items() if name not in symbols}

        def ids_of(piece: str) -> list[int]:
            if piece not in ids:
                ids[piece] = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in piece.encode()]
            return ids[piece]

        words = (UnigramSampler if self.kind == "unigram" else BpeSampler)(scores, alpha)
        return TextSampler(words, symbols, ids_of, _normalize)

    def _decode(self, ids):
        return tf.strings.regex_replace(self._pieces.detokenize(ids), "^ ", "", replace_global=False)


def _normalize(text: str) -> str:
    """What the model's normaliser makes of a text: `NORMALIZATION`, and spaces as `SPACE`."""
    return text.replace("\ufdd0", "\ufdd00").replace(SPACE, "\ufdd01").replace(" ", SPACE)


def _train_sentencepiece(kind: str, vocabulary_size: int, sentences: list[bytes], symbols: Sequence[str]) -> bytes:
    try:
        return _run_trainer(kind, vocabulary_size, sentences, symbols)
    except RuntimeError as error:
        largest = re.search(r"Vocabulary size too high .* <= (\d+)", str(error))
        smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if largest:  # bpe alone: the strings hold no more merges than this
            return _run_trainer(kind, int(largest[1]), sentences, symbols)
        if smallest:
            raise ValueError(
                f"A {kind} tokenizer needs a vocabulary_size of at least {smallest[1]} for these strings: "
                "4 special tokens, 256 bytes and each common character. Raise it, or use kind 'characters' "
                f"or 'bytes'. Received: vocabulary_size={vocabulary_size}.") from None
        raise ValueError(f"sentencepiece cannot learn {kind} from these strings: {error}") from error


def _run_trainer(kind: str, vocabulary_size: int, sentences: list[bytes], symbols: Sequence[str]) -> bytes:
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        normalization = _write_rules(folder, "normalization.tsv", NORMALIZATION)
        denormalization = _write_rules(folder, "denormalization.tsv", DENORMALIZATION)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=kind,
            vocab_size=vocabulary_size,
            hard_vocab_limit=kind == "bpe",  # unigram then stops early by itself; bpe would fail later
            byte_fallback=True,
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
            pad_piece=SPECIAL_TOKENS[PAD], unk_piece=SPECIAL_TOKENS[UNK],
            bos_piece=SPECIAL_TOKENS[BOS], eos_piece=SPECIAL_TOKENS[EOS],
            unk_surface=UNKNOWN_TEXT,
            user_defined_symbols=list(symbols),
            normalization_rule_tsv=normalization,
            denormalization_rule_tsv=denormalization,
            required_chars="▁",  # else a text with few spaces spells them in bytes, which decode to U+2581
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 24,  # bytes; by default strings above 4192 are left out without a word
            minloglevel=2,  # errors alone
        )
    content = model.getvalue()
    for path in (normalization, denormalization):
        # The model remembers where its rules were; it should name no folder and be the same each time. A
        # text of the same length leaves the serialised message whole.
        written = path.encode()
        content = content.replace(written, Path(path).name.encode().rjust(len(written), b"/"))
    return content


def _write_rules(folder: str, name: str, rules: str) -> str:
    """Writes a rule file and returns its path, stretched with slashes to one length on all machines."""
    path = f"{folder}{'/' * max(1, PATH_LENGTH - len(folder) - len(name))}{name}"
    Path(path).write_text(rules)
    return path
