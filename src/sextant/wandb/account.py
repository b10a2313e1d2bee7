"""Who is logged in to which W&B server, and what it refuses, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sextant.errors import UserError


def login() -> tuple[str, bool]:
    """The W&B server in use, and whether a key for it is known here; never asks for one.

    Raises:
        UserError: where the key that is known cannot be one.
    """
    import wandb

    server = wandb.setup().settings.base_url
    try:
        return server, wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"the W&B key for {server} is not one: {first_line(error)}") from None


def require_login(purpose: str) -> str:
    """The W&B server in use, which somebody must be logged in to.

    Args:
        purpose: what cannot be done otherwise, for the sentence that says so.

    Raises:
        UserError: nobody is logged in to it.
    """
    server, known = login()
    if not known:
        raise UserError(
            f"cannot {purpose}: nobody is logged in to {server}; call `wandb login`, or set "
            "WANDB_API_KEY (and WANDB_BASE_URL for a server of your own)"
        )
    return server


def own_entity(server: str) -> str:
    """Whoever is logged in to the server."""
    import wandb

    with refusals(f"{server} does not say who is logged in"):
        return str(wandb.Api().default_entity or "")


@contextmanager
def refusals(sentence: str) -> Iterator[None]:
    """Turns what a server refuses, or its silence, into `sentence` and the reason."""
    try:
        yield
    except Exception as error:
        # some of what the client raises has no public class in common
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise UserError(f"{sentence}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What an error says, without what follows its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
