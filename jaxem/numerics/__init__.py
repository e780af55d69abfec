"""Arithmetic and the machine: linear algebra, special functions, chunks, devices, compilation; it knows no model."""
