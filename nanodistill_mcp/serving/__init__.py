"""A trained model over HTTP: the wire, the limits, and the process that holds the model.

It knows nothing of runs: whoever serves says how a question is put to the model and how its text is read.
"""
