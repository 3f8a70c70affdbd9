"""Ray for a command: its own cluster or a running one, the code sent to that, and why joining may fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
# Arguments of ray.init for a cluster that ends with the command. Without "local" Ray takes one that it finds on this
# machine, and fails where one that has died left its address behind.
OWN: dict[str, Any] = {"address": "local", "include_dashboard": False}
_TOKEN = "InvalidAuthToken", "AuthenticationError", "Unauthenticated"


def joined(address: str) -> dict[str, Any]:
    """Arguments of ray.init. Other machines get our two packages, and not the root, where a folder `nodes` stands."""
    packages = [str(_ROOT / name) for name in ("pipeline", "serving")]
    return {"address": address, "runtime_env": {"py_modules": packages}}


def why_not(error: BaseException) -> str:
    """A readable message for an error of ray.init, whose reason is hidden in the error's causes."""
    found: BaseException | None = error
    while found is not None:
        if any(word in f"{type(found).__name__} {found}" for word in _TOKEN):
            return (
                f"{str(error).splitlines()[0]}: the cluster asks for its token, and got none or another one. Ray sends "
                "a token to an address that is named by itself only with RAY_AUTH_MODE=token in the environment; it "
                "takes the one of RAY_AUTH_TOKEN, of the file RAY_AUTH_TOKEN_PATH or of ~/.ray/auth_token, which must "
                "be the cluster's. `--address auto` finds the cluster of this machine and does without the first."
            )
        found = found.__cause__ or found.__context__
    return str(error)
