"""Risk in a post, rules for a reply, and whom to call: all of it data that a team can read and change."""

from llumi.safety.resources import Resource, Resources
from llumi.safety.rules import SafetyRules, Tier

__all__ = ["Resource", "Resources", "SafetyRules", "Tier"]
