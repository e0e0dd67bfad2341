"""The packed numbers of one primitive, and the renderer's constants: the specification that both renderers share.

An object is a union (minimum of distances) of up to SLOTS primitives, each a row of WIDTH float32 numbers. A point p of
the object's frame is first folded (|x| if MIRROR_X, |z| if MIRROR_Z), then taken into the primitive's frame,
l = R^T (p - CENTER). The primitive's distance is then one of

    BOX        half sizes SIZE, edges rounded by ROUND; the width in x at height y is SIZE_x (1 + TAPER_x y / SIZE_y),
               and so for z
    ELLIPSOID  radii SIZE
    CONE       frustum about y: radius SIZE_x at y = -SIZE_y and SIZE_z at y = SIZE_y, edges rounded by ROUND
    TORUS      ring in the x-y plane: radius SIZE_x, tube radius SIZE_y
    CAPSULE    balls of radius SIZE_x at y = -SIZE_y and SIZE_z at y = SIZE_y and their convex hull

then, if SHELL > 0, |distance| - SHELL (a hollow wall), and last the part with CUT_LOW <= y <= CUT_HIGH.

Each distance is at most the true one outside and 1-Lipschitz, so a sphere tracer may take whole steps. It *is* the
true one for untapered boxes, frustums, tori and capsules (ROUND, SHELL and folding included, cuts not) next to faces.
For an ellipsoid it is the first-order distance (f - 1) / |grad f| with f = |l / SIZE|, a lower bound since f is convex.

numba's cache of compiled code looks at the age of render_numba.py alone: after a change *here*, delete its __pycache__
(a test tells when that was forgotten).
"""

SLOTS = 20
WIDTH = 48

BOX, ELLIPSOID, CONE, TORUS, CAPSULE = range(5)
PLAIN, STRIPES, CHECKS, SPOTS, GRADIENT, BAND = range(6)

KIND = 0  # -1: the slot is not used; used slots come first
MIRROR_X, MIRROR_Z = 1, 2
CENTER = 3  # 3 numbers
ROTATION = 6  # 9 numbers, row-major R whose columns are the primitive's axes
SIZE = 15  # 3
ROUND = 18
TAPER_X, TAPER_Z = 19, 20
SHELL = 21
CUT_LOW, CUT_HIGH = 22, 23
BOUND = 24  # 4: center (object's frame, folded) and radius of a ball around the primitive
COLOR = 28  # 3
COLOR2 = 31  # 3
TEXTURE = 34
WAVE = 35  # 3: radians per unit along the primitive's axes
PHASE = 38
DERIVED = 39  # 5, see parts.finish

NO_CUT = 9.0

# Sphere tracing. Rays start where they enter a primitive's ball and end where they leave the last one.
MAX_STEPS = 96
HIT_DISTANCE = 1e-4  # world units; 1/100 of a pixel of 128
LATE_HIT_DISTANCE = 1e-3  # still a hit when the steps run out: grazing rays
NORMAL_STEP = 2e-3  # half the edge of the tetrahedron whose corners give the normal
BALL_MARGIN = 5e-3  # added to the bounding balls, so that the normal's corners see every primitive they should

# color = albedo * (SHADE_BASE + SHADE_GAIN * (n . LIGHT)): smooth, never black, the same light for every object.
LIGHT = (0.4243, 0.7495, 0.5081)
SHADE_BASE = 0.79
SHADE_GAIN = 0.23
