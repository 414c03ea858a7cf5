"""What other programs read, as text: nothing here opens a file, the engine writes what these functions give."""
