"""LitServe with the same exported model, threads and batches as the service: `serving_litserve.py MODEL PORT`."""

import sys

import litserve
import numpy as np
from starlette.requests import Request

from imgclassify.backend import cores
from imgclassify.serving.exported import load_exported


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = load_exported(sys.argv[1], threads=1)

    def decode_request(self, request: Request):
        return self.model.prepare(request["files"].file)

    def batch(self, inputs):
        return np.stack(inputs)

    def unbatch(self, output):
        return list(output)

    def predict(self, x):
        return self.model.answers(x)[0]

    def encode_response(self, output):
        return {"label": self.model.class_names[output.argmax()], "confidence": float(output.max())}


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.002, api_path="/v1/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=cores(), healthcheck_path="/ready")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", num_api_servers=1, generate_client_file=False)
