"""Tumor Fabrication: synthetic brain-tumour MRI from healthy scans and a few annotated cases."""

__version__ = "0.1.0"
