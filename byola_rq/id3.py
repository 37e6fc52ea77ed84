"""ID3v2 tags: what stands before the sound of MP3, and of some FLAC files."""

from typing import BinaryIO

_MAX_TAGS = 10_000  # real files have one or two; a hostile one may be all tags


def skip_id3(file: BinaryIO) -> int:
    """Where the sound begins behind ID3v2 tags: 0 where there is none."""
    position = 0
    for _ in range(_MAX_TAGS):
        file.seek(position)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            break
        # Four times seven bits, so that no byte looks like the first of a frame.
        length = 0
        for byte in tag[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if tag[5] & 0x10 else 0)
    return position
