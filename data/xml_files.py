"""Read XML files of annotations."""

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import InputError, shorten
from .files import read_file


def read_xml(path: Path) -> Element:
    """Return the root of an XML file.

    Raises:
        InputError: it cannot be read or is not XML, or it has a document type declaration. Annotations do not need one,
            and its entities could expand to any size.
    """

    def refuse(*declaration: object) -> NoReturn:
        raise InputError(f"{shorten(path, 200)} has a document type declaration (<!DOCTYPE ...>); remove it")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(read_file(path), True)
    except InputError:
        raise
    except (expat.ExpatError, LookupError, ValueError, OSError) as error:  # the first has line and column
        raise InputError(f"{shorten(path, 200)} is not XML: {shorten(error)}; export it again") from None
    return builder.close()


def as_number(text: str | None) -> float | str | None:
    """Return the number that a text stands for, and the text itself if it is not a number."""
    try:
        return float(text or "")
    except ValueError:
        return text
