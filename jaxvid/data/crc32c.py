"""CRC-32C (Castagnoli), the checksum of TFRecord files, as they store it."""

from jaxvid.base.errors import JaxvidError

try:
    from google_crc32c import extend
except ImportError:  # A command without the extra `data` should still say its --help.
    extend = None


def crc32c(data: bytes | memoryview, before: int = 0) -> int:
    """Computes the CRC-32C of `data`, or of what has the CRC `before` with `data` after it."""
    if extend is None:
        raise JaxvidError("records need google-crc32c: pip install 'jaxvid[data]'")
    return extend(before, bytes(data))  # It takes no memoryview.


def masked(data: bytes | memoryview) -> int:
    """Computes the checksum as TFRecord files store it: rotated and offset."""
    return mask(crc32c(data))


def mask(crc: int) -> int:
    """Rotates and offsets a CRC-32C, as TFRecord files store it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
