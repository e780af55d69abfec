"""Linear algebra, special functions, chunks, devices and compilation, which know no model."""
