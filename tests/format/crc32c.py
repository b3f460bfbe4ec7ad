"""CRC-32C of docs/log-format.md, section 2, with nothing but Python.

`reference` is the textbook loop, a byte at a time. `append` gives the same at a hundred times the speed, by
taking the bytes as one long polynomial over GF(2), held in a Python integer: x^n and its remainder modulo the
CRC's polynomial P are the same to the checksum, so everything above bit n can be folded onto the bits below with
a few shifts, as many as the remainder has terms. Folding at the right n halves the length each time.
"""

POLYNOMIAL = 0x1EDC6F41  # without x^32
_REFLECTED = 0x82F63B78
_ONES = 0xFFFFFFFF
_CHUNK = 128 * 1024  # bytes folded at once: integers that stay in the processor's cache
_SHORT = 96  # bytes up to which the plain loop is as quick


def _byte_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_REFLECTED if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _byte_table()
_MIRROR = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))  # bits of a byte the other way round


def _steps(state, data):
    for byte in data:
        state = _TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state


def reference(data, crc=0):
    """The checksum of what `crc` is the checksum of, followed by `data`."""
    return _steps(crc ^ _ONES, data) ^ _ONES


def _times_x(remainder):
    remainder <<= 1
    return remainder ^ (1 << 32 | POLYNOMIAL) if remainder >> 32 else remainder


def _power_of_x(exponent):
    """x^exponent modulo P."""
    result = 1
    for bit in f"{exponent:b}":
        square = 0
        for place in range(31, -1, -1):
            square = _times_x(square) ^ (result if result >> place & 1 else 0)
        result = _times_x(square) if bit == "1" else square
    return result


def _fold_at(least, tries):
    """Of the exponents from `least` on, the one whose remainder has the fewest terms: (n, mask, shifts)."""
    remainder = _power_of_x(least)
    best, terms = least, remainder
    for exponent in range(least + 1, least + tries):
        remainder = _times_x(remainder)
        if bin(remainder).count("1") < bin(terms).count("1"):
            best, terms = exponent, remainder
    return best, (1 << best) - 1, [place for place in range(32) if terms >> place & 1]


# From the longest to the shortest: 1 MiBit, a chunk, down to 256 bits.
_FOLDS = [_fold_at(1 << power, min(1 << power, 4096) // 2) for power in range(20, 7, -1)]


def _fold(state, data):
    """One chunk of at least 4 bytes; `state` is the reflected register before it."""
    length = 8 * len(data)
    head = int.from_bytes(state.to_bytes(4, "little").translate(_MIRROR), "big")
    rest = int.from_bytes(bytes(data).translate(_MIRROR), "big") ^ head << (length - 32)
    for exponent, mask, shifts in _FOLDS:
        while (high := rest >> exponent):
            rest &= mask
            for shift in shifts:
                rest ^= high << shift
    return _steps(0, rest.to_bytes(48, "big").translate(_MIRROR))


def append(data, crc=0):
    """As `reference`."""
    state = crc ^ _ONES
    if len(data) <= _SHORT:
        return _steps(state, data) ^ _ONES
    view = memoryview(data)
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        state = _fold(state, chunk) if len(chunk) > _SHORT else _steps(state, chunk)
    return state ^ _ONES
