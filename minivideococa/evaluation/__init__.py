"""How good a model is on a data set: a manifest of videos and what is true of them, tasks, and their metrics.

manifest      the file that says what there is to evaluate
annotations   what data sets publish -> the entries of a manifest
"""
