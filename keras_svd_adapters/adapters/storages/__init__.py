"""How a layer stores its kernel in fewer bits: the integers of Keras, and NF4."""
