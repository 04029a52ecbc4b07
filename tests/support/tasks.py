"""A tiny task of KerasHub, plain and adapted."""

import keras_hub
import models

import keras_svd_adapters as ksa


def task():
    backbone, x = models.bert()
    model = keras_hub.models.BertTextClassifier(backbone, 3, preprocessor=None, dropout=0.0)
    return model, x


def adapted_task():
    model, x = task()
    ksa.enable(model, ksa.SVFT(pattern="banded", d=2), name="pirate", train="logits")
    return model, x
