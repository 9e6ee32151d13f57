"""Dumps of online communities: found, read, cleaned, and stripped of everything that names a person."""
