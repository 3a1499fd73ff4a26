"""What a registered model runs: image files in, classes and maps out. MLflow executes this file."""

from typing import Any

import mlflow

from abn.inference import predictor


class Network(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A network behind MLflow's model interface."""

    def load_context(self, context: Any) -> None:
        self.model = predictor.load(context.artifacts["weights"])

    # Without types: MLflow takes them for the schema of what may come in.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """For each image file (bytes, column `image`) its class, confidences, map [h][w], and
        whether it is unlike the training data (None: not known)."""
        return [
            {
                "class": each.label,
                "confidence": each.classes[each.label],
                "classes": each.classes,
                "attention_classes": each.attention_confidences,
                "map": each.map.tolist(),
                "unlike": each.unlike,
            }
            for each in self.model.predict(list(model_input["image"]))
        ]


mlflow.models.set_model(Network())
