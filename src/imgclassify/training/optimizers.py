"""Optimizers: Adam and Muon, the ones that recipes can name."""

import functools

from imgclassify import backend
from imgclassify.recipes import Recipe

_WARMUP = 10  # the learning rate of "cosine" rises for one in ten steps


def build_optimizer(recipe: Recipe, steps: int, *, scale_loss: bool = False):
    """The recipe's Keras optimizer with its learning-rate schedule.

    Args:
        recipe: Its `optimizer`, `learning_rate`, `weight_decay` and `schedule` are used. Weights decay by the learning
            rate times `weight_decay` in each step; biases do not.
        steps: Number of training steps; a falling learning rate reaches zero after them.
        scale_loss: Scale the loss; for mixed float16, in which small gradients would vanish.
    """
    keras = backend.keras()
    rate = recipe.learning_rate
    if recipe.schedule == "linear":
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    if recipe.schedule == "cosine":
        warmup = max(1, steps // _WARMUP)
        rate = keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), 0.0, "cosine", rate, warmup)
    adam, muon = _classes()
    optimizer = muon(rate) if recipe.optimizer == "muon" else adam(rate)
    if recipe.optimizer == "adamw":
        optimizer.weight_decay = recipe.weight_decay
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer


@functools.cache
def _classes() -> tuple[type, type]:
    """Adam and Muon. They are classes of Keras, which is imported when they are needed."""
    keras, tf = backend.keras(), backend.tensorflow()

    class Adam(keras.optimizers.Adam):
        """Keras' Adam as one operation of TensorFlow, where Keras uses about twenty small ones per variable."""

        def update_step(self, gradient, variable, learning_rate):
            at, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[at].value.handle,
                v=self._velocities[at].value.handle,
                beta1_power=self.beta_1**step,
                beta2_power=self.beta_2**step,
                lr=learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )

    class Muon(keras.optimizers.Muon):
        """Muon for convolutions, as Jordan uses it on CIFAR-10 (github.com/KellerJordan/cifar10-airbench).

        Keras' own Muon takes only matrices. Here, a kernel (height, width, in, out) is treated as a matrix of
        (height * width * in, out). Each step first scales it to the norm sqrt(out), so that the learning rate is the
        relative change per step; the batch normalisation that follows cancels the scaling. All other variables are
        trained by Adam, at 3 % of the learning rate.
        """

        def __init__(self, learning_rate):
            super().__init__(
                learning_rate, momentum=0.6, ns_steps=3, adam_lr_ratio=0.03, weight_decay=None, adam_weight_decay=None
            )
            self._matrix_dtype = tf.bfloat16 if backend.has_fast_bfloat16() else tf.float32

        def _should_use_adamw(self, variable):
            return len(variable.shape) != 4

        def _muon_update_step(self, gradient, variable, lr, m):
            rows, columns = variable.shape[0] * variable.shape[1] * variable.shape[2], variable.shape[3]
            self.assign(m, self.momentum * m + gradient)
            update = tf.cast(tf.reshape(gradient + self.momentum * m, (rows, columns)), self._matrix_dtype)
            update = tf.cast(self.zeropower_via_newtonschulz5(update, self.ns_steps), tf.float32)
            kernel = variable * (columns**0.5 / tf.norm(variable))
            step = lr * max(1, columns / rows) ** 0.5 * tf.reshape(update, variable.shape)
            self.assign(variable, kernel - step)

    return Adam, Muon
