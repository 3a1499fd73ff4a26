from abn.inference.prediction import Prediction as Prediction
from abn.inference.predictor import Predictor as Predictor
from abn.inference.predictor import load as load
from abn.models.abn import AttentionBranchNetwork as AttentionBranchNetwork
from abn.version import __version__ as __version__
