"""The Titanic example: the whole loop on the 1,309 passengers, for `mlsys demo`."""
