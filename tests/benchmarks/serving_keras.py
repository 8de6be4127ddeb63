"""What one writes first: `model.predict` in a route of FastAPI. `serving_keras.py MODEL PORT`."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

from imgclassify import load_model

model, app = load_model(sys.argv[1]), FastAPI()


@app.get("/ready")
def ready():
    return "ready"


@app.post("/v1/predict")
def predict(files: UploadFile):
    picture = model.prepare(files.file)[np.newaxis] / np.float32(255)
    values = model.network.predict(picture, verbose=0)[0]
    return {"label": model.class_names[values.argmax()], "confidence": float(values.max())}


if __name__ == "__main__":
    model.network.predict(np.zeros((1, *model.input_shape), np.float32), verbose=0)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
