"""Moves tokens into the buffers of experts and back; every all-to-all is here."""
