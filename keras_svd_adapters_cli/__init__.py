"""The command `keras-svd-adapters`, apart from the package: its help does not import Keras."""
