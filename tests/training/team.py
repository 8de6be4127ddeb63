"""One of three workers, or all in one: `python team.py ADDRESSES INDEX OUTPUT` writes what it heard and learned.

With an empty ADDRESSES it trains alone, in as many towers: two for each of three. OUTPUT.json gets what was heard and
the losses, OUTPUT.npz the variables.
"""

import json
import sys
from pathlib import Path

import numpy as np
from killed import made_up

from imgclassify import backend
from imgclassify.data.batches import Batches
from imgclassify.data.images import Resized
from imgclassify.models.networks import build_model
from imgclassify.recipes import get_recipe
from imgclassify.training.loop import Loop
from imgclassify.training.transfer import prepare_job
from imgclassify.training.workers import ALONE, join_workers

SMALL = {"epochs": 3, "batch_size": 24}
RECIPES = {
    "baseline": get_recipe("baseline", **SMALL),
    "fast": get_recipe("fast", **SMALL),
    "fast in bfloat16": get_recipe("fast", **SMALL),
    "photos": get_recipe("photos", size=96, variants=2, **SMALL),
}


def exchanges(workers) -> dict:
    """What comes of each exchange, with values that tell the workers apart."""
    tf, index = backend.tensorflow(), workers.index
    tensors = [tf.fill((2, 3), index + 1.0), tf.constant(10.0 * (index + 1))]
    summed = tf.function(lambda: workers.sum(tensors), autograph=False)()
    return {
        "sum": [each.numpy().tolist() for each in summed],
        "gather": workers.gather(np.full((2 - index, 2), index, np.float16)).tolist(),  # nothing from the last
        "any": [workers.any(False), workers.any(index == 1), workers.any(True)],
        "share": workers.share({"name": f"from {index}", "array": np.arange(5) + index})["array"].tolist(),
    }


def train(workers, recipe, precision: str) -> tuple[list, list[np.ndarray]]:
    """Loss and accuracy of each epoch, and everything that the loop has learned."""
    # TensorFlow rewrites graphs. In bfloat16, each rewriting rounds otherwise, and those of the loops are not the same.
    backend.tensorflow().config.optimizer.set_experimental_options({"disable_meta_optimizer": "16" in precision})
    # In float32, a sum of more than two depends on their order, by one bit. Muon in bfloat16 would make more of it.
    backend.has_fast_bfloat16 = lambda: "16" in precision
    data = made_up()
    rows, labels = np.arange(len(data.y_train)), data.y_train
    backend.set_seed(workers.index)  # so that the workers begin with different weights
    if recipe.architecture in ("baseline", "airbench"):
        options = {"batch_size": recipe.batch_size, "augmentation": recipe.augmentation}
        network, batches = build_model(recipe.architecture, num_classes=3), Batches(data.x_train, labels, **options)
    else:
        network = build_model(recipe.architecture, input_shape=(96, 96, 3), num_classes=3)
        pictures = Resized(data.x_train, 96)
        held = pictures[np.arange(12)], labels[:12]
        network, batches, _ = prepare_job(network, recipe, (pictures, labels, rows), held, seed=0, workers=workers)
    loop = Loop(network, recipe, batches, precision, workers=workers)
    loop.restore(workers.share(loop.state()))
    losses = [(list(loop.run_epoch(epoch)), loop.loss, loop.accuracy)[1:] for epoch in range(recipe.epochs)]
    state = loop.state()
    return losses, [*state["network"], *state["optimizer"], state["certainty"]]


def main(addresses: str, index: str, output: str) -> None:
    workers = join_workers(addresses.split(","), int(index)) if addresses else ALONE
    backend.towers = lambda pictures: pictures // 4  # six in one process, two in each of three
    heard = exchanges(workers) if addresses else {}
    losses, learned = {}, {}
    for name, recipe in RECIPES.items():
        losses[name], variables = train(workers, recipe, "mixed_bfloat16" if "bfloat16" in name else "float32")
        learned |= {f"{name} {place:03}": values for place, values in enumerate(variables)}
    np.savez(f"{output}.npz", **learned)
    Path(f"{output}.json").write_text(json.dumps({"heard": heard, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
