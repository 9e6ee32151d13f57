"""The human rating page: a study of replies side by side, the raters who judge them blind, and what comes out of it."""
