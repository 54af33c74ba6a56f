"""CRC-32C (Castagnoli), the checksum of TFRecord files, in numpy or by `google_crc32c` if present.

The checksum is linear over bits, so a long message is cut into lanes that numpy advances together,
two bytes a step; neighbouring lanes are then joined pairwise by the linear map "append n zero
bytes". That is some hundred MB/s in one thread, without a compiled extension.
"""

import functools

import numpy as np

try:
    from google_crc32c import extend as _native
except ImportError:
    _native = None

_POLYNOMIAL = 0x82F63B78  # bit-reversed
_LANE = 64  # bytes; even
_SHORT = 256  # below this a plain loop is faster than the lanes


def crc32c(data: bytes, before: int = 0) -> int:
    """Computes the CRC-32C of `data`, or of what has the CRC `before` with `data` after it."""
    if _native is not None:
        return _native(before, bytes(data))
    return _portable(data, before)


def masked(data: bytes) -> int:
    """Computes the checksum as TFRecord files store it: rotated and offset."""
    return mask(crc32c(data))


def mask(crc: int) -> int:
    """Rotates and offsets a CRC-32C, as TFRecord files store it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _portable(data: bytes, before: int = 0) -> int:
    register = before ^ 0xFFFFFFFF
    if len(data) < _SHORT:
        crc, table = register, _byte_table_list()
        for byte in bytes(data):
            crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
        return crc ^ 0xFFFFFFFF
    count = -(-len(data) // _LANE)
    padded = np.zeros(count * _LANE, np.uint8)
    front = padded.size - len(data)  # leading zeros leave a zero register as it is
    padded[front:] = np.frombuffer(data, np.uint8)
    # Equals starting from that register.
    padded[front : front + 4] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)
    words = np.ascontiguousarray(padded.view("<u2").reshape(count, _LANE // 2).T)
    table = _word_table()
    lanes = np.zeros(count, np.uint32)
    for word in words:
        lanes = (lanes >> 16) ^ table[(lanes & 0xFFFF) ^ word]
    width = _LANE
    while lanes.size > 1:
        if lanes.size % 2:
            lanes = np.concatenate([np.zeros(1, np.uint32), lanes])
        shift = _append_zeros(width)
        left = np.ascontiguousarray(lanes[0::2]).view(np.uint8).reshape(-1, 4)
        moved = shift[0][left[:, 0]] ^ shift[1][left[:, 1]]
        moved ^= shift[2][left[:, 2]] ^ shift[3][left[:, 3]]
        lanes = moved ^ lanes[1::2]
        width *= 2
    return int(lanes[0]) ^ 0xFFFFFFFF


@functools.cache
def _byte_table() -> np.ndarray:
    """What the register becomes after one byte: uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _byte_table_list() -> list[int]:
    return _byte_table().tolist()


@functools.cache
def _word_table() -> np.ndarray:
    """What the register becomes after two bytes, the first one low: uint32 [65536]."""
    table, word = _byte_table(), np.arange(65536, dtype=np.uint32)
    first = table[word & 0xFF]
    return (first >> 8) ^ table[(first ^ (word >> 8)) & 0xFF]


@functools.cache
def _append_zeros(count: int) -> np.ndarray:
    """The map "append `count` zero bytes" of a register, by its four bytes: uint32 [4, 256]."""
    low, register = np.arange(256, dtype=np.uint32), None
    if count == 1:
        register = np.stack([low << (8 * place) for place in range(4)])
        return (register >> 8) ^ _byte_table()[register & 0xFF]
    half = _append_zeros(count // 2)  # count is a power of two
    return (
        half[0][half & 0xFF]
        ^ half[1][half >> 8 & 0xFF]
        ^ half[2][half >> 16 & 0xFF]
        ^ (half[3][half >> 24])
    )
