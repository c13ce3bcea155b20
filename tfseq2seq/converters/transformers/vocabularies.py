"""Tokenizer files of Transformers as tokenizers of ours."""

from collections.abc import Mapping
from typing import Any

import sentencepiece

from tfseq2seq.converters.base import Ids
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.structures import BOS, PAD, UNK
from tfseq2seq.tokenizers import MappedTokenizer


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
    pieces = [processor.id_to_piece(piece) for piece in range(processor.vocab_size())]
    return [
        UNK if processor.is_unknown(i) or piece not in vocabulary else int(ids.ours[vocabulary[piece]])
        for i, piece in enumerate(pieces)]


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


def marian_tokenizers(files: ModelFiles, ids: Ids) -> tuple[MappedTokenizer, MappedTokenizer]:
    """source.spm and target.spm, with the ids of vocab.json; a source may begin with a target language, ">>deu<<"."""
    vocabulary = files.json("vocab.json")
    names = ids.names(names_by_id(vocabulary, len(ids.ours)))
    silent = [PAD, UNK, BOS, *(int(ids.ours[id_]) for id_ in specials(files, vocabulary))]
    source, target = (files.bytes(f"{side}.spm") for side in ("source", "target"))
    return (
        MappedTokenizer(source, names, piece_ids(source, vocabulary, ids), silent, strip=True, leading_tag=True,
            by_spelling=True),
        MappedTokenizer(target, names, piece_ids(target, vocabulary, ids), silent, strip=True, by_spelling=True))
