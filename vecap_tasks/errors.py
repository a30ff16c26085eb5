"""The errors a user sees: one clear line that says what is wrong, where, and what to do."""

import errno


class VecapError(Exception):
    """A failure the user can act on. The message is one line; the command line prints it and exits with 1."""


class ConfigError(VecapError):
    """The configuration is missing, unreadable or holds a value that cannot be used."""


class GateClosed(VecapError):
    """The quality gate refused a crawl. Nothing is published; trying again without a change cannot help."""


class DamagedError(VecapError):
    """A file differs from what its manifest says."""


def one_line(error: BaseException) -> str:
    """Return *error* as a single line for a person, naming the remedy where the cause is a known one."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some or move `root` elsewhere, then run the same command again"
    text = " ".join(str(error).split())
    if isinstance(error, VecapError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_problem(error: BaseException) -> str:
    """Return in one line why transformers cannot load a model or tokenizer."""
    if "trust_remote_code" in str(error):  # its files have an `auto_map`
        return (
            "it needs Python code of its own (`auto_map`), which is never run here; "
            "choose a model whose architecture transformers has, or serve it (backend: openai)"
        )
    return one_line(error)
