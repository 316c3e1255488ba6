"""A dataset as an array: numpy-like slicing of one field of all samples.

field_view.py   FieldView: what an index means, and which samples it takes
array_like.py   what numpy's functions and operators do with it
stacking.py     the values of samples as one array
reductions.py   sums, extremes and moments, a batch of samples at a time
"""
