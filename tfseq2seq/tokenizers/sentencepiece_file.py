"""A sentencepiece model as the bytes of its file, a protocol buffer, changed without its Python classes.

Those that come with `sentencepiece` need another version of protobuf than Apache Beam. Field numbers are those of
sentencepiece_model.proto.
"""

from collections.abc import Iterator

NORMALIZER, CHARACTER_MAP = 3, 2  # fields of a model and of its normalizer
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # wire types


def without_character_map(model: bytes) -> bytes:
    """The model without the map that its normalizer replaces characters by; white space is treated as before."""
    kept = []
    for field, start, value, end in fields(model):
        if field != NORMALIZER:
            kept.append(model[start:end])
            continue
        normalizer = model[value:end]
        inner = b"".join(
            normalizer[first:last] for number, first, _, last in fields(normalizer) if number != CHARACTER_MAP)
        kept.append(_varint(NORMALIZER << 3 | BYTES) + _varint(len(inner)) + inner)
    return b"".join(kept)


def fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the value and end of each field of a message. Raises ValueError where it is damaged."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        value = place
        if key & 7 == VARINT:
            _, place = _read_varint(message, place)
        elif key & 7 in (FIXED_64, FIXED_32):
            place += 8 if key & 7 == FIXED_64 else 4
        elif key & 7 == BYTES:
            length, value = _read_varint(message, place)
            place = value + length
        else:
            place = len(message) + 1
        if place > len(message):
            raise ValueError(f"A sentencepiece model must be whole. Received: one that is damaged at byte {start}.")
        yield key >> 3, start, value, place


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(message):
        byte = message[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    return number, len(message) + 1


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
