"""Which models the files in the models directories are.

``files`` lists and reads (the only I/O), ``layout`` says what the files are and which ids they claim, ``placement``
gives each of them a model in the light of what is known already. :mod:`registry.scanning` writes the outcome.
"""
