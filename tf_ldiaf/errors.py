"""What a user did wrong: errors whose text is one sentence for them, which a command prints before it ends."""


class ConfigError(ValueError):
    """A setting that cannot be used; its text is one sentence for the user."""


class UnreadableError(ConfigError):
    """A checkpoint that may be undamaged cannot be read."""
