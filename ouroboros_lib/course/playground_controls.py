"""The playground's controls: sliders for the plan, a picture to paint on, and what F makes of it."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import ImageColor

from ..errors import InputError, needs
from ..viz.encoding import as_png, at_once
from ..viz.paint import PaintBox, read_places
from ..viz.sheets import to_pil
from .playground import PRESETS, Choice, Playground, Stroke

with needs("course", "what notebooks show"):
    import ipywidgets as widgets
    from IPython.display import Image as DisplayedImage
    from IPython.display import display

WIDTH = widgets.Layout(width="320px")


class Controls:
    """Sliders, a picture to paint on, and the sheet as it stands.

    It begins with one run, of what `choice` says.
    """

    def __init__(self, playground: Playground, choice: Choice):
        self.playground = playground
        last, style = playground.steps, {"description_width": "90px"}

        def slider(kind, name, value, low, high, step=1):
            return kind(value=value, min=low, max=high, step=step, description=name, style=style, layout=WIDTH)

        self.plan = widgets.Dropdown(options=PRESETS, value=choice.plan, description="plan", style=style, layout=WIDTH)
        self.every = slider(widgets.IntSlider, "every", min(choice.every, last), 1, last)
        self.from_step = slider(widgets.IntSlider, "from step", min(choice.from_step, last), 0, last)
        self.projection = slider(widgets.FloatSlider, "projection", choice.projection, 0, 1, 0.05)
        self.elevation = slider(widgets.FloatSlider, "elevation", round(choice.elevation, 1), -30, 60, 0.5)
        self.seed = widgets.BoundedIntText(value=choice.seed, min=0, max=2**32 - 1, description="seed", style=style,
                                           layout=WIDTH)
        self.start = widgets.Button(description="run", button_style="primary", icon="play", layout=WIDTH)
        self.step = slider(widgets.IntSlider, "paint in step", playground.moment + 1, 1, last)
        self.view = slider(widgets.IntSlider, "on view", playground.view, 0, playground.pipe.num_views - 1)
        self.colour = widgets.ColorPicker(value="#e61a1a", description="colour", style=style, layout=WIDTH)
        self.size = slider(widgets.IntSlider, "brush", 6, 1, max(2, playground.image.shape[-1] // 4))
        self.clean = widgets.Button(description="clean", icon="eraser", layout=WIDTH)
        self.says = widgets.HTML()
        self.paper = PaintBox(self._painted)
        controls = [self.plan, self.every, self.from_step, self.projection, self.elevation, self.seed, self.start,
                    self.step, self.view, self.colour, self.size, self.clean]
        column = widgets.VBox(controls, layout=widgets.Layout(flex="0 0 auto", margin="0 24px 0 0"))
        self.box = widgets.VBox([widgets.HBox([column, self.paper]), self.says])
        self._shown = None

        self.plan.observe(self._preset, "value")
        for control in (self.step, self.view):
            control.continuous_update = False
            control.observe(self._chosen, "value")
        for control in (self.colour, self.size):
            control.observe(lambda change: self._paper(), "value")
        self.start.on_click(lambda button: self._run())
        self.clean.on_click(lambda button: self._act(playground.clean))
        self._act(lambda: playground.run(self.choice()))

    def choice(self) -> Choice:
        """What the controls say."""
        return Choice(self.plan.value, self.every.value, self.from_step.value, self.projection.value,
                      self.elevation.value, self.seed.value)

    @property
    def picture(self) -> bytes:
        """The sheet as it stands, a small PNG."""
        return as_png(self.playground.sheet())

    def show(self) -> None:
        """The controls, and below them the sheet as an output of the cell: it stays where there is no kernel."""
        display(self.box)
        self._shown = display(DisplayedImage(self.picture, format="png"), display_id=True)

    def _preset(self, change: dict) -> None:
        preset = Choice.preset(self.plan.value)
        self.every.value, self.from_step.value = preset.every, preset.from_step
        self.projection.value = preset.projection

    def _chosen(self, change: dict) -> None:
        self._act(lambda: self.playground.choose(self.step.value - 1, self.view.value))

    def _painted(self, places: str) -> None:
        red, green, blue, *_ = (value / 255 for value in ImageColor.getrgb(self.colour.value))
        self._act(lambda: self.playground.paint(
            Stroke(tuple(read_places(places)), self.size.value, (red, green, blue))))

    def _run(self) -> None:
        self.start.disabled, self.start.description = True, "running"
        try:
            self._act(lambda: self.playground.run(self.choice()))
        finally:
            self.start.disabled, self.start.description = False, "run"

    def _act(self, action: Callable[[], None]) -> None:
        with self._said():
            action()
            self._draw()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What is wrong is one line below the controls."""
        self.says.value = ""
        try:
            yield
        except InputError as error:
            self.says.value = f"<b>{html.escape(str(error))}</b>"

    def _draw(self) -> None:
        self._paper()
        if self._shown is not None:
            self._shown.update(DisplayedImage(at_once(self.playground.sheet()), format="png"))

    def _paper(self) -> None:
        playground = self.playground
        self.paper.layout.display = None if playground.can_paint else "none"
        if playground.can_paint:
            self.paper.show(to_pil(playground.painted()["rgb"][0, playground.view]), self.size.value, self.colour.value)
