"""biasscope: where inside a causal language model social bias sits, how certain that is, and what it costs to remove."""

__version__ = "0.1.0"
