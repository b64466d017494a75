"""Vision transformers with a choice of attention, registered with timm on import.

Create one with `timm.create_model("vars_rvt_tiny", attention="vars_sd")`. Each family has a file of its own. `released`
reads the released checkpoints.
"""

from models import deit, gfnet, released, rvt
from models.deit import VarsVisionTransformer
from models.gfnet import GlobalFilter, GlobalFilterNetwork
from models.rvt import RobustVisionTransformer

__all__ = [
    "GlobalFilter",
    "GlobalFilterNetwork",
    "RobustVisionTransformer",
    "VarsVisionTransformer",
    "deit",
    "gfnet",
    "released",
    "rvt",
]
