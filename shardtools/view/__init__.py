"""A dataset as an array: numpy-like slicing of one field of all samples.

field_view.py   FieldView: indexing, and which samples it reads
index_parts.py  the kinds of parts of an index
ragged.py       slices as lists, for samples of different shapes
array_like.py   numpy's functions and Python's operators on a view
stacking.py     stacks the values of samples to one array
reductions.py   sums, extremes and moments, a batch of samples at a time
reducible.py    the methods that arrays of hubs have, too
"""
