"""Who is at the browser: an invitation opens a session, and each form proves that it came from a page of that session.

Neither the token of an invitation nor that of a cookie is stored, only their hashes: they are 256 random bits, so that a
plain hash cannot be turned back.
"""

import hashlib
import hmac
import secrets

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from llumi.rate.tables import Rater, SignIn

SESSION_SECONDS = 14 * 24 * 3600.0

_SIGNED_IN = select(Rater).join(SignIn).where(SignIn.cookie_hash == bindparam("cookie"), SignIn.expires_at > bindparam("now"))


def new_token() -> str:
    """256 random bits, as they stand in a link or a cookie."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def form_token(cookie: str) -> str:
    """What the forms of a session carry: another site can neither read it nor guess it (CSRF)."""
    return hmac.new(cookie.encode(), b"form", hashlib.sha256).hexdigest()


def is_form_token(cookie: str, given: str) -> bool:
    """Whether `given` came from a page of this session."""
    return hmac.compare_digest(form_token(cookie).encode(), given.encode())


def sign_in(session: Session, invitation: str, now: float) -> str | None:
    """A cookie for the rater of this invitation, or None where there is no such one. A link may be opened again."""
    rater_id = session.scalar(select(Rater.id).where(Rater.invitation_hash == hashed(invitation)))
    if rater_id is None:
        return None
    cookie = new_token()
    session.execute(delete(SignIn).where(SignIn.expires_at <= now))
    session.add(SignIn(cookie_hash=hashed(cookie), rater_id=rater_id, expires_at=now + SESSION_SECONDS))
    return cookie


def rater_of(session: Session, cookie: str, now: float) -> Rater | None:
    """The rater who is signed in with this cookie."""
    return session.scalar(_SIGNED_IN, {"cookie": hashed(cookie), "now": now})
