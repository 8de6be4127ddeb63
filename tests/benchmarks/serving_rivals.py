"""What the service is compared with: `python serving_rivals.py keras|litserve MODEL PORT`."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

from imgclassify.data.images import decode_image, prepare_image


def keras_behind_fastapi(path: str):
    """What one writes first: `model.predict` in a route."""
    from imgclassify import load_model

    model, app = load_model(path), FastAPI()
    model.network.predict(np.zeros((1, *model.input_shape), np.float32), verbose=0)

    @app.get("/ready")
    def ready():
        return "ready"

    @app.post("/v1/predict")
    def predict(files: UploadFile):
        picture = model.prepare(files.file)[np.newaxis] / np.float32(255)
        values = model.network.predict(picture, verbose=0)[0]
        return {"label": model.class_names[values.argmax()], "confidence": float(values.max())}

    return app


def litserve(path: str, port: int) -> None:
    """LitServe with the same exported model, batches of up to 16."""
    import litserve
    from starlette.requests import Request

    from imgclassify.serving.exported import load_exported

    class Api(litserve.LitAPI):
        def setup(self, device):
            self.model = load_exported(path)

        def decode_request(self, request: Request):
            size, crop = self.model.input_size, self.model.crop
            return prepare_image(decode_image(request["files"].file, size=size), size=size, crop=crop)

        def batch(self, inputs):
            return np.stack(inputs)

        def unbatch(self, output):
            return list(output)

        def predict(self, x):
            return self.model.answers(x)[0]

        def encode_response(self, output):
            return {"label": self.model.class_names[output.argmax()], "confidence": float(output.max())}

    api = Api(max_batch_size=16, batch_timeout=0.002, api_path="/v1/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, healthcheck_path="/ready")
    server.run(port=port, host="127.0.0.1", num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    rival, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if rival == "litserve":
        litserve(path, port)
    else:
        uvicorn.run(keras_behind_fastapi(path), port=port, log_level="warning")
