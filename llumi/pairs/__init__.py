"""From cleaned posts and replies to what the models learn from."""
