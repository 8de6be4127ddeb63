"""What the service's OpenAPI document says: the forms of answers and refusals, with examples, and of bodies."""

from typing import Any

from pydantic import BaseModel, Field


class Refusal(BaseModel):
    """Why a request was refused."""

    error: str = Field(examples=["The picture is not a picture of a known format."])


class Answer(BaseModel):
    """What the model says of a picture."""

    file: str | None = Field(description="Name of the file, if the client gave one", examples=["frog.jpg"])
    index: int = Field(description="Place of the picture in the request, from 0", examples=[0])
    label: str = Field(description="The most probable class", examples=["frog"])
    confidence: float = Field(description="Its probability", examples=[0.97])
    known: bool = Field(description="Whether it seems to be one of the classes at all", examples=[True])
    familiarity: float | None = Field(
        description="Share of pictures of the classes that look less familiar; null: not known", examples=[0.61]
    )
    probabilities: dict[str, float] = Field(examples=[{"frog": 0.97, "deer": 0.01, "bird": 0.01}])


class RefusedPicture(Refusal):
    """Why one picture of a request has no answer."""

    file: str | None = Field(examples=["notes.txt"])
    index: int = Field(examples=[1])
    status: int = Field(examples=[422])


class Answers(BaseModel):
    """What the model says of the pictures of a request."""

    model: str = Field(examples=["cifar10_guided.onnx"])
    pictures: list[Answer]
    refused: list[RefusedPicture] = Field(examples=[[]])


class Model(BaseModel):
    """What is served; see `About`."""

    name: str
    class_names: list[str]
    input_shape: list[int] = Field(description="Height, width and channels that pictures are prepared to")
    crop: float
    unfamiliar_below: float
    data: str
    accuracy: str
    model_sha256: str | None


class Models(BaseModel):
    """All models of the service."""

    models: list[Model]


class State(BaseModel):
    """How the service is."""

    status: str = Field(examples=["ok"])


_WHY = {
    400: "The form or the request cannot be read",
    401: "There is no key, or a wrong one",
    408: "The body arrived too slowly",
    413: "The body or the number of files is too large",
    422: "None of the files is a picture that can be used",
    429: "The key's rate is exceeded, or the queue is full; see Retry-After",
    503: "The answer took too long, or the service cannot work; see Retry-After",
}
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Refusal, "description": why} for code, why in _WHY.items()}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {"files": {"type": "array", "items": _BINARY["schema"]}},
}
BODY = {
    "required": True,
    "description": "One or many files of a form, under any name; or one file as it is.",
    "content": {"multipart/form-data": {"schema": _FORM}, "image/jpeg": _BINARY, "application/octet-stream": _BINARY},
}
