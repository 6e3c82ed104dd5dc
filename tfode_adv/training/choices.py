"""What a training's and a search's flags may say, where it takes no TensorFlow to know."""

# Which devices train; see `distribution.strategy`.
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")
# What becomes of a batch that fails; see `loop.Survival`.
ON_NAN = ("stop", "skip")
# Which weights `model.keras` gets; see `Recipe`.
KEEP = ("best", "last")
# NumPy takes 32 bits, and KerasTuner gets one more than the recipe's.
MAX_SEED = 2**32 - 2
# How a search chooses values, and what it maximises; see `tuning.Search` and `search_space.Objective`.
METHODS = ("random", "bayesian", "hyperband")
OBJECTIVES = ("accuracy", "robust", "weighted")
# What descends; see `Recipe`.
OPTIMIZERS = ("sgd", "adam")
