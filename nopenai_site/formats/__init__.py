"""How Django's templates write numbers and times, in place of its own ideas for each language."""
