"""Register a trained network in MLflow's registry, where `mlflow models serve` finds it.

    abn register NAME                     # checkpoint/model.safetensors, alias "current"
    mlflow models serve -m models:/NAME@current --env-manager local

The server takes image files in base64 and answers with the class, the confidences of both branches
and the map. The model is code and safetensors, no pickle, and hangs on the run with these weights;
what MLflow lacks of that run is sent first, as `abn sync` does.
"""

import argparse

from abn.inference import registry
from abn.project import paths
from abn.runtime.errors import UserError
from abn.tracking import client

HELP = "register a network in MLflow, to be served"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", help="of the registered model")
    parser.add_argument("--alias", default="current", help="moved to this version; current")


def run(options: argparse.Namespace) -> int:
    """Register, and print the model's address; TrackingError where the store fails."""
    try:
        print(registry.register(paths.CHECKPOINT / paths.MODEL, options.name, options.alias))
    except UserError:
        raise
    except Exception as error:
        raise client.failure(error) from error
    return 0
