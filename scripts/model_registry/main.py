"""Cloud Function: an object was uploaded to a model bucket; when it completes a model version, register that version.

Eventarc delivers ``google.cloud.storage.object.v1.finalized`` at least once and in any order. What can never succeed
is logged and acknowledged; anything else raises, so that Eventarc delivers it again.
"""

import logging

import functions_framework
from cloudevents.http import CloudEvent

from mlsys.registry import UploadEvent, register

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


@functions_framework.cloud_event
def register_model(event: CloudEvent) -> None:
    """Register the model version that the upload completes."""
    try:
        upload = UploadEvent.parse(event.data)
    except ValueError as exc:
        logging.error("dropped event %s: %s", event["id"], exc)  # repeating it would not help
        return
    register(upload)
