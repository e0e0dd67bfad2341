# What `import ouroboros_lib` offers, and where it lives: for type checkers and completion, and for __init__.py.
from .cameras import Cameras as Cameras
from .course.parameters import notebook as notebook
from .errors import InputError as InputError
from .gaussians import Gaussians as Gaussians
from .models.autoencoder import Autoencoder as Autoencoder
from .models.condition import Condition as Condition
from .models.elevation import ElevationEstimator as ElevationEstimator
from .models.feedback import Renders as Renders
from .models.multiview import MultiviewUNet as MultiviewUNet
from .models.reconstructor import GaussianReconstructor as GaussianReconstructor
from .noise import EDMNoise as EDMNoise
from .paper.lgm import LGMReconstructor as LGMReconstructor
from .paper.released import ReleasedMultiviewUNet as ReleasedMultiviewUNet
from .paper.released import ReleasedPipeline as ReleasedPipeline
from .paper.released import ReleasedReconstructor as ReleasedReconstructor
from .paper.svd import SVDMultiviewUNet as SVDMultiviewUNet
from .paper.svd_autoencoder import SVDAutoencoder as SVDAutoencoder
from .pipeline import Ouroboros3DPipeline as Ouroboros3DPipeline
from .plans import Plan as Plan
from .rasterization import rasterize as rasterize

__version__: str
