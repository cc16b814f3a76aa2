"""The one error that the twin answers with, in the shape of Google's JSON APIs."""


class ApiError(Exception):
    """An error as a Google API reports it.

    Parameters
    ----------
    code
        HTTP status.
    reason
        Google's reason word: ``notFound``, ``duplicate``, ``invalid``, ``invalidQuery``, ``conditionNotMet`` …
    message
        One line for the person who reads it.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def body(self) -> dict:
        """Return the JSON body that Google's clients parse."""
        detail = {"domain": "global", "reason": self.reason, "message": self.message}
        return {"error": {"code": self.code, "message": self.message, "errors": [detail]}}


def not_found(what: str) -> ApiError:
    """Return the 404 for a missing resource, ``what`` naming its kind and path."""
    return ApiError(404, "notFound", f"Not found: {what}")


def unsupported(what: str) -> ApiError:
    """Return the refusal of something that the twin does not do exactly."""
    return ApiError(400, "invalidQuery", f"not supported locally: {what}")
