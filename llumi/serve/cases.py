"""What the guard is told of a request."""

from llumi.prompts import Role, post_text
from llumi.serve.api import Body, ChatBody, DraftBody, ImproveBody
from llumi.serve.guard import Case


def case_of(role: Role, body: Body) -> Case:
    """Which text tells the risk, and which draft a revision is held against.

    On the chat route IM's draft cannot be told from the post: all that the user wrote is taken as the draft there, and none
    of it is an answer.
    """
    match body:
        case ImproveBody():
            return Case(role, post_text(body.title, body.post), body.draft, draft_may_stand=True, country=body.country)
        case DraftBody():
            return Case(role, post_text(body.title, body.post), country=body.country)
        case ChatBody():
            said = "\n\n".join(message["content"] for message in body.messages() if message["role"] == "user")
            return Case(role, said, said if role == "im" else None, country=body.country)
    raise TypeError(f"no case for {type(body).__name__}")
