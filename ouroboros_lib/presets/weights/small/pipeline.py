"""By `custom_pipeline` diffusers finds the class of these weights here."""

import ouroboros_lib.models.autoencoder  # noqa: F401
import ouroboros_lib.models.elevation  # noqa: F401
import ouroboros_lib.models.multiview  # noqa: F401
import ouroboros_lib.models.reconstructor  # noqa: F401
import ouroboros_lib.noise  # noqa: F401
from ouroboros_lib.pipeline import Ouroboros3DPipeline  # noqa: F401
