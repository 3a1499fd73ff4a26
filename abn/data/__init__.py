"""Packed data sets: the file, its batches, and the crops cut out of them."""
