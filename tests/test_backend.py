import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from imgclassify import backend, build_model

HEAVY = ("tensorflow", "keras", "numpy", "PIL", "matplotlib", "sklearn", "scipy", "requests", "ipywidgets")
SET_BY_BACKEND = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")  # also in this process, by earlier tests


def python(code: str, **environment) -> subprocess.CompletedProcess:
    """Run code in a separate process; its two streams are captured at the level of file descriptors."""
    untouched = {name: value for name, value in os.environ.items() if name not in SET_BY_BACKEND}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=untouched | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def loaded_after(code: str) -> list[str]:
    """Which heavy packages a piece of code has loaded."""
    done = python(f"import sys\n{code}\nprint('loaded:', *[name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


# --- what an import costs ----------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import imgclassify") == []


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"try: cli.main({arguments})\nexcept SystemExit as end: assert end.code == 0"
    assert loaded_after(f"from imgclassify import cli\n{code}") == []


def test_listing_the_packages_names_loads_nothing_heavy():
    assert loaded_after("import imgclassify; dir(imgclassify); imgclassify.__all__") == []


def test_settings_load_nothing_heavy():
    assert loaded_after("from imgclassify import settings; settings.model_dirs()") == []


def test_working_with_pictures_data_and_runs_does_not_load_tensorflow():
    loaded = loaded_after("from imgclassify import *; from imgclassify import decode_image; list_runs()")
    assert "numpy" in loaded
    assert "tensorflow" not in loaded
    assert "keras" not in loaded


def test_importing_every_module_prints_nothing_sets_nothing_and_makes_no_folder(tmp_path):
    code = """
import importlib, os, pkgutil
before = dict(os.environ)
import imgclassify
for module in pkgutil.walk_packages(imgclassify.__path__, "imgclassify."):
    importlib.import_module(module.name)
assert dict(os.environ) == before
"""
    folders = {f"IMGCLASSIFY_{name}_DIR": str(tmp_path / name) for name in ("ARTIFACTS", "CACHE")}
    done = python(code, **folders)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_can_be_imported_and_others_are_an_attribute_error():
    import imgclassify

    for name in imgclassify.__all__:
        assert getattr(imgclassify, name).__name__ == name
        assert name in dir(imgclassify)
    with pytest.raises(AttributeError, match="module 'imgclassify' has no attribute 'train'"):
        imgclassify.train  # noqa: B018


# --- TensorFlow without noise --------------------------------------------------------------------------


def test_tensorflow_starts_and_computes_silently_and_standard_error_works_afterwards():
    code = """
import numpy, os
from imgclassify import build_model
from imgclassify.models.inference import predict_probabilities
assert predict_probabilities(build_model(), numpy.zeros((2, 32, 32, 3), numpy.uint8)).shape == (2, 10)
os.write(1, b"the end")
os.write(2, b"heard")
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end", "heard")


def test_tensorflow_can_be_imported_from_two_threads_without_losing_standard_error():
    code = (
        "import os, threading\n"
        "from imgclassify import backend\n"
        "threads = [threading.Thread(target=backend.tensorflow) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "os.write(2, b'still here')\n"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "still here")


# --- seeds, precision, cores ------------------------------------------------------------------------------


def test_a_seed_repeats_random_numbers_and_weights():
    def draw():
        backend.set_seed(7)
        weights = build_model().get_weights()[0]
        return random.random(), np.random.random(), weights.tolist()  # noqa: NPY002 - keras draws from it

    assert draw() == draw()


@pytest.mark.parametrize("precision", backend.PRECISIONS)
def test_a_precision_may_be_chosen(precision):
    assert backend.choose_precision(precision) == precision


def test_automatic_precision_is_the_hardwares():
    assert backend.choose_precision("auto") == backend.default_precision()
    assert backend.default_precision() in backend.PRECISIONS


@pytest.mark.parametrize("precision", ["float8", "", "AUTO"])
def test_an_unknown_precision_is_refused_with_those_that_exist(precision):
    said = f"auto or one of float32, mixed_float16, mixed_bfloat16. Received: precision='{precision}'"
    with pytest.raises(ValueError, match=said):
        backend.choose_precision(precision)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 60, 64, 97, 256])
def test_a_batch_is_split_into_equal_towers_of_at_least_eight_pictures(batch_size):
    towers = backend.towers(batch_size)
    assert 1 <= towers <= max(1, backend.cores())
    assert batch_size % towers == 0
    assert towers == 1 or batch_size // towers >= 8


def test_results_come_in_order_whichever_is_done_first(monkeypatch):
    monkeypatch.setattr(backend, "cores", lambda: 4)
    assert list(backend.in_parallel(lambda n: time.sleep((n % 3) / 100) or n, range(30))) == list(range(30))
    assert list(backend.in_parallel(len, [])) == []


def test_nothing_more_is_begun_after_an_exception_and_little_ahead_of_the_caller(monkeypatch):
    monkeypatch.setattr(backend, "cores", lambda: 2)
    begun = []

    def work(number):
        begun.append(number)
        if number == 3:
            raise ArithmeticError
        return number

    with pytest.raises(ArithmeticError):
        list(backend.in_parallel(work, range(1000)))
    assert len(begun) < 20
    begun.clear()
    results = backend.in_parallel(work, range(4, 1000))
    assert next(results) == 4
    results.close()
    assert len(begun) < 20


# --- tracing -----------------------------------------------------------------------------------------


def test_gradients_that_another_thread_traces_meanwhile_are_kept():
    tf = backend.tensorflow()
    signature = tf.TensorSpec((None,))
    of_others, ours = (tf.function(lambda x: tf.nn.silu(x)) for _ in range(2))
    with backend.tracing():
        ours.get_concrete_function(signature)
        other = threading.Thread(target=of_others.get_concrete_function, args=[signature])
        other.start()
        other.join()
    x = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = of_others(x)
    expected = [sigmoid * (1 + value * (1 - sigmoid)) for value in (1, 2) for sigmoid in [1 / (1 + np.exp(-value))]]
    assert tape.gradient(y, x).numpy() == pytest.approx(expected, rel=1e-5)


def test_what_is_traced_leaves_no_gradient_behind_also_after_an_error():
    from tensorflow.python.framework.ops import gradient_registry

    tf, before = backend.tensorflow(), set(gradient_registry.list())

    def fails(x):
        raise ArithmeticError(tf.nn.silu(x))

    with pytest.raises(ArithmeticError), backend.tracing():
        tf.function(fails, autograph=False).get_concrete_function(tf.TensorSpec((None,)))
    assert set(gradient_registry.list()) == before
