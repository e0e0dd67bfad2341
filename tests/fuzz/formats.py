"""Everything that is read, by name."""

from . import pictures, records, shapes

FORMATS = [*shapes.FORMATS, *pictures.FORMATS, *records.FORMATS]
