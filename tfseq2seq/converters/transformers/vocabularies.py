"""Tokenizer files of Transformers as tokenizers of ours."""

from collections.abc import Mapping
from typing import Any

import sentencepiece

from tfseq2seq.converters.base import Ids
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.transformers.languages import CODE, LANGUAGES
from tfseq2seq.converters.weights import ConversionError
from tfseq2seq.structures import BOS, EOS, PAD, UNK
from tfseq2seq.tokenizers import ByteLevelTokenizer, MappedTokenizer

FAIRSEQ_MODEL = "sentencepiece.bpe.model"


def names_by_id(vocabulary: Mapping[str, int], size: int) -> list[str]:
    """Tokens in the order of their ids; ids without one are "<id>"."""
    names = [f"<{id_}>" for id_ in range(size)]
    for name, id_ in vocabulary.items():
        if id_ < size:
            names[id_] = name
    return names


def piece_ids(model: bytes, vocabulary: Mapping[str, int], ids: Ids) -> list[int]:
    """For each piece of a sentencepiece model our id of the token that is spelled alike, UNK where there is none."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [
        UNK if processor.is_unknown(i) or vocabulary.get(piece, len(ids.ours)) >= len(ids.ours)
        else int(ids.ours[vocabulary[piece]]) for i, piece in enumerate(spellings(model))]


def specials(files: ModelFiles, vocabulary: Mapping[str, int]) -> set[int]:
    """Ids there of the tokens that `decode(skip_special_tokens=True)` leaves out."""
    config, names = files.tokenizer, set[Any]()
    for key in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = config.get(key)
        names.add(value["content"] if isinstance(value, dict) else value)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = config.get(key) or []
        values = values.values() if isinstance(values, dict) else values
        names.update(value["content"] if isinstance(value, dict) else value for value in values)
    names.update(
        value["content"] for value in (config.get("added_tokens_decoder") or {}).values() if value.get("special"))
    names.update(value["content"] for value in _added(files) if value.get("special"))
    return {vocabulary[name] for name in names if name in vocabulary}


def _added(files: ModelFiles) -> list[dict]:
    return files.json("tokenizer.json", {}).get("added_tokens") or []


def fast_vocabulary(files: ModelFiles) -> dict[str, int] | None:
    """Token -> id of tokenizer.json, or None where there is none."""
    values = files.json("tokenizer.json", {})
    if not values:
        return None
    vocabulary = values["model"]["vocab"]
    if not isinstance(vocabulary, dict):  # of unigram a list of token and score
        vocabulary = {entry[0]: id_ for id_, entry in enumerate(vocabulary)}
    return {**vocabulary, **{added["content"]: added["id"] for added in values.get("added_tokens") or []}}


def cutting(files: ModelFiles) -> dict[str, Any]:
    """How tokenizer.json treats a string before sentencepiece cuts it; else as sentencepiece does itself."""
    values = files.json("tokenizer.json", {})
    if not values:
        return {}
    normalizers = _kinds(values.get("normalizer"))
    return {
        "normalize": "Precompiled" in normalizers,
        "trailing_space": not {"Strip", "WhitespaceSplit"} & {*normalizers, *_kinds(values.get("pre_tokenizer"))}}


def _kinds(step: dict[str, Any] | None) -> list[str]:
    """Types of the steps of a sequence, or of the one that it is."""
    if not step:
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return [step["type"]] if inner is None else [kind for each in inner for kind in _kinds(each)]


def spellings(model: bytes) -> list[str]:
    """The pieces of a sentencepiece model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(piece) for piece in range(processor.vocab_size())]


def unknown_id(files: ModelFiles) -> int | None:
    """The id of the unknown token, or None where every string can be written without."""
    vocabulary = read_vocabulary(files)
    name = files.tokenizer.get("unk_token", "<unk>")
    name = name["content"] if isinstance(name, dict) else name
    found = vocabulary.get(name)
    return None if found == files.get("eos_token_id") else found


def read_vocabulary(files: ModelFiles) -> dict[str, int]:
    """Token -> id."""
    fast = fast_vocabulary(files)
    if fast is not None:
        return fast
    if (files.folder / "vocab.json").exists():
        vocabulary = files.json("vocab.json")
        if files.config["model_type"] == "m2m_100":
            first = len(vocabulary)
            codes = LANGUAGES[files.tokenizer.get("language_codes", "m2m100")]
            vocabulary |= {f"__{code}__": first + i for i, code in enumerate(codes)}
        return vocabulary
    if files.config["model_type"] == "pegasus":
        return _pegasus_vocabulary(files)
    pieces = spellings(files.bytes(FAIRSEQ_MODEL))
    specials_ = dict(zip(("<s>", "<pad>", "</s>", "<unk>"), range(4), strict=True))
    vocabulary = specials_ | {piece: i + 1 for i, piece in enumerate(pieces) if i >= 3}
    for code in _codes(files):
        vocabulary[code] = len(vocabulary)
    vocabulary.setdefault("<mask>", len(vocabulary))
    return vocabulary


def _codes(files: ModelFiles) -> list[str]:
    """Languages of mBART and NLLB in the order of their ids, where there is no tokenizer.json."""
    listed = files.tokenizer.get("additional_special_tokens") or files.tokenizer.get("extra_special_tokens") or []
    codes = [value["content"] if isinstance(value, dict) else value for value in listed]
    if not codes and files.config["model_type"] == "mbart":
        fifty = "50" in str(files.tokenizer.get("tokenizer_class"))
        codes = LANGUAGES["mbart"] + (LANGUAGES["mbart50"] if fifty else [])
    return [code for code in codes if not code.startswith("<")]


def _pegasus_vocabulary(files: ModelFiles) -> dict[str, int]:
    offset = files.tokenizer.get("offset", 103)
    first = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, offset - 1))]
    pieces = spellings(files.bytes("spiece.model"))
    return {name: i for i, name in enumerate(first)} | {
        piece: offset + i for i, piece in enumerate(pieces) if i >= 2}


def pegasus_tokenizers(files: ModelFiles, ids: Ids) -> tuple[MappedTokenizer, MappedTokenizer]:
    """spiece.model, its ids behind those of masks."""
    both = mapped(files, ids, files.bytes("spiece.model"), read_vocabulary(files))
    return both, both


def language_tokenizers(
    files: ModelFiles, ids: Ids, source_language: str | None = None, target_language: str | None = None,
) -> tuple[MappedTokenizer, MappedTokenizer]:
    """Of M2M100, NLLB and mBART: a token says the language of a source, and another one that of the answer."""
    vocabulary, config = read_vocabulary(files), files.tokenizer
    slow = files.config["model_type"] == "m2m_100" and (files.folder / "vocab.json").exists()
    settings: dict[str, Any] = {"by_spelling": True, "strip": True, "tell_unused": True} if slow else {}

    def language(code: str | None, option: str) -> int:
        for name in (f"__{code}__", code):
            if name in vocabulary:
                return int(ids.ours[vocabulary[name]])
        codes = [name.strip("_") for name in vocabulary if CODE.fullmatch(name)]
        raise ConversionError(
            f"{files.folder}: needs --{option} with one of its languages: {', '.join(codes[:200])}. Received: {code}.")

    source = language(source_language or config.get("src_lang"), "source-language")
    # mBART of 25 languages and the first NLLB write a source's language behind it; mBART's answers start with theirs.
    of_25 = files.config["model_type"] == "mbart" and "50" not in str(config.get("tokenizer_class"))
    framed: dict[str, Any] = {"before": [source]}
    if of_25 or config.get("legacy_behaviour"):
        framed = {"after": [EOS], "end": source}
    before: list[int] = []
    forced = files.generation.get("forced_bos_token_id")
    if target_language is not None or (forced is None and not of_25):
        before = [language(target_language or config.get("tgt_lang"), "target-language")]
    elif forced is not None:
        before = [int(ids.ours[forced])]
    model = files.bytes(FAIRSEQ_MODEL)
    return (
        mapped(files, ids, model, vocabulary, **settings, **framed),
        mapped(files, ids, model, vocabulary, **settings, before=before))


def bart_tokenizers(files: ModelFiles, ids: Ids) -> tuple[ByteLevelTokenizer, ByteLevelTokenizer]:
    """vocab.json and merges.txt; a source stands between the first and the end token."""
    source = byte_level(files, ids, before=[int(ids.ours[files.get("bos_token_id")])])
    forced = files.generation.get("forced_bos_token_id")
    return source, source.framed([] if forced is None else [int(ids.ours[forced])])


def byte_level(files: ModelFiles, ids: Ids, **settings: Any) -> ByteLevelTokenizer:
    """A tokenizer of vocab.json and merges.txt, or of tokenizer.json."""
    values = files.json("tokenizer.json", {})
    if values:
        steps = [_kinds(values.get(name)) for name in ("normalizer", "pre_tokenizer")]
        if steps != [[], ["ByteLevel"]]:
            raise ConversionError(
                f"{files.folder / 'tokenizer.json'}: normalizer must be null and pre_tokenizer ByteLevel, others are "
                f"not supported. Received: {steps[0]} and {steps[1]}.")
        merges = values["model"]["merges"]
    else:
        lines = files.bytes("merges.txt").decode().splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
    vocabulary = read_vocabulary(files)
    silent = {PAD, UNK, BOS, *(int(ids.ours[id_]) for id_ in specials(files, vocabulary) if id_ < len(ids.ours))}
    return ByteLevelTokenizer(
        ids.names(names_by_id(vocabulary, len(ids.ours))),
        [pair.split(" ") if isinstance(pair, str) else pair for pair in merges], silent,
        **{"prefix_space": bool(files.tokenizer.get("add_prefix_space", False)), **settings})


def t5_tokenizers(files: ModelFiles, ids: Ids) -> tuple[MappedTokenizer, MappedTokenizer]:
    """spiece.model, with sentinels at the end of the vocabulary that count down."""
    model = files.bytes("spiece.model")
    vocabulary = fast_vocabulary(files)
    if vocabulary is None:
        pieces = spellings(model)
        extra = files.tokenizer.get("extra_ids", 100)
        sentinels = {f"<extra_id_{i}>": len(pieces) + extra - 1 - i for i in range(extra)}
        vocabulary = {**{piece: id_ for id_, piece in enumerate(pieces)}, **sentinels}
    both = mapped(files, ids, model, vocabulary)
    return both, both


def mapped(
    files: ModelFiles, ids: Ids, model: bytes, vocabulary: Mapping[str, int], **settings: Any,
) -> MappedTokenizer:
    """A tokenizer of a sentencepiece model whose pieces have the ids of a vocabulary."""
    size = len(ids.ours)
    names = ids.names(names_by_id(vocabulary, size))
    unused = set(range(size)) - set(vocabulary.values())
    left_out = specials(files, vocabulary)
    if settings.pop("tell_unused", False):
        settings["breaking"] = {int(ids.ours[id_]): "<unk>" for id_ in unused}
    else:
        left_out |= unused
    silent = {PAD, UNK, BOS, *(int(ids.ours[id_]) for id_ in left_out if id_ < size)}
    return MappedTokenizer(
        model, names, piece_ids(model, vocabulary, ids), silent, **{**cutting(files), **settings})


def marian_tokenizers(files: ModelFiles, ids: Ids) -> tuple[MappedTokenizer, MappedTokenizer]:
    """source.spm and target.spm, with the ids of vocab.json; a source may begin with a target language, ">>deu<<"."""
    vocabulary = files.json("vocab.json")
    source, target = (files.bytes(f"{side}.spm") for side in ("source", "target"))
    return (
        mapped(files, ids, source, vocabulary, strip=True, by_spelling=True, leading_tag=True),
        mapped(files, ids, target, vocabulary, strip=True, by_spelling=True))
