"""What a file says of its picture, from its bytes alone: no pixel is decoded, and no file name is looked at."""

from lightmill.codecs import jpeg, png
from lightmill.codecs.jpeg import Jpeg
from lightmill.codecs.picture import Header, Reader
from lightmill.codecs.png import Png
from lightmill.errors import NotAnImage

__all__ = ["Header", "open_picture", "read_header"]


def read_header(data: bytes) -> Header:
    """Format, stored size and EXIF orientation.

    Raises NotAnImage, UnsupportedImage, and DamagedImage where the header itself is not all there.
    """
    return open_picture(data).header


def open_picture(data: bytes) -> Reader:
    """The reader of the format that the bytes are in, its header read. Raises as `read_header` does."""
    if data.startswith(jpeg.SIGNATURE):
        return Jpeg(data)
    if data.startswith(png.SIGNATURE):
        return Png(data)
    if not data:
        raise NotAnImage("empty file (0 bytes)")
    from lightmill.codecs.others import Other  # late: Pillow's formats load slowly, and most files need none of them

    return Other(data)
