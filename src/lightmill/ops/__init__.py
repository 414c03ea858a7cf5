"""Pure functions on arrays: no files, no options, no state that a caller could see."""
