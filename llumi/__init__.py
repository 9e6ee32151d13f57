"""LLUMI trains and hosts models that help people write to someone in distress, inside one's own network."""

from llumi import environment

__version__ = "0.1.0"

environment.apply()
