"""Bytes of pictures to arrays and back: strict first, lenient second, and never without saying so."""
