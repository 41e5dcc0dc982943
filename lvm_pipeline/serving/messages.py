"""The bodies of requests and answers; the OpenAPI schema is made from them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lvm_pipeline.errors import LvmError

MAX_NEAREST = 100

Rows = list[list[float]]


class PredictRequest(BaseModel):
    """One context, as texts or as vectors; the prediction is for the concept after it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: Annotated[
        list[str] | None, Field(description="Concepts in reading order, encoded with the encoder of the model's space.")
    ] = None
    vectors: Annotated[Rows | None, Field(description="Their vectors instead, one row for each concept.")] = None
    tmd_dense: Annotated[Rows | None, Field(description="TMD vector of each concept, for a model that reads one.")] = (
        None
    )
    space_id: Annotated[str | None, Field(description="Space id of the vectors; refused if it is not the model's.")] = (
        None
    )
    nearest: Annotated[int, Field(ge=0, le=MAX_NEAREST, description="How many nearest concepts to return.")] = 5
    decoder: Annotated[str | None, Field(description="Decoder of the predicted vector; null decodes nothing.")] = (
        "nearest"
    )


class NearestConcept(BaseModel):
    """A concept of the promoted table and its cosine to the prediction; a ranking output gives the order."""

    cpe_id: str
    article_id: str
    position: int
    concept_text: str
    cosine: float


class PredictResponse(BaseModel):
    """The prediction and what made it."""

    prediction: Annotated[list[float], Field(description="Vector predicted for the next concept.")]
    num_context: Annotated[int, Field(description="Number of concepts that the model read: the last ones.")]
    nearest: Annotated[
        list[NearestConcept] | None,
        Field(description="Concepts nearest to the prediction, without those of the context; null without a table."),
    ] = None
    text: Annotated[str | None, Field(description="The prediction decoded to text; null if it was not.")] = None
    confidence: Annotated[
        float | None, Field(description="Round trip: cosine between the prediction and the vector of the decoded text.")
    ] = None
    decoder: str | None = None
    trial_id: str
    architecture: str
    version: Annotated[str | None, Field(description="Version in the registry; null for a trial.")] = None
    space_id: str


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str


class BadJsonError(LvmError):
    """The body is not JSON."""


def read_request(body: bytes) -> PredictRequest:
    """Read the body of a request.

    Raises:
        BadJsonError: If it is not JSON.
        LvmError: If it is not a request.
    """
    try:
        request = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadJsonError(f"The body is not JSON ({first['msg'].removeprefix('Invalid JSON: ')}).") from None
        where = ".".join(map(str, first["loc"])) or "the body"
        if first["type"] == "extra_forbidden":
            known = ", ".join(PredictRequest.model_fields)
            raise LvmError(f"There is no field {where}; the fields are {known}.") from None
        raise LvmError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None
    if (request.texts is None) == (request.vectors is None):
        raise LvmError("Give either texts or vectors.")
    if request.texts is not None and not all(text.strip() for text in request.texts):
        raise LvmError("One of the texts is empty; leave it out.")
    return request
