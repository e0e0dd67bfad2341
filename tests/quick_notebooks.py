"""A pytest plugin: every notebook of the course also runs from top to bottom with smaller parameters than its own.

`python -m pytest -p quick_notebooks notebooks/00_quickstart.ipynb`: papermill does that, and keeps nothing.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

QUICK = {
    "00_quickstart": {"steps": 5, "preset": "tiny"},
    "01_diffusion_of_a_number": {"steps": 5},
    "02_multiview_diffusion": {"steps": 2, "chosen_object": 5},
    "03_gaussian_reconstruction": {"fit_steps": 100, "fit_count": 3000},
    "04_self_conditioning_feedback": {"steps": 2, "object_number": 5},
    "05_joint_training": {"joint_steps": 10, "buffer_objects": 2, "batch_size": 1},
    "06_gso_evaluation": {"samples": 2, "steps": 2, "evaluated": [10]},
    "07_paper_scale": {"object_number": 2},
    "00_solutions": {"steps": 3},
    "02_solutions": {"steps": 3},
    "04_solutions": {"steps": 2, "objects": 1},
}


def pytest_collect_file(file_path: Path, parent: pytest.Collector):
    if file_path.suffix == ".ipynb" and file_path.stem in QUICK:
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        run = QuickRun.from_parent(self, name="papermill")
        run.add_marker(pytest.mark.timeout(900))  # of all its cells
        yield run


class QuickRun(pytest.Item):
    def runtest(self):
        from papermill import execute_notebook

        with TemporaryDirectory() as elsewhere:  # notebooks run from any folder
            execute_notebook(self.path, None, QUICK[self.path.stem], kernel_name="python3", cwd=elsewhere,
                             progress_bar=False, log_output=False)

    def reportinfo(self):
        return self.path, None, f"papermill {self.path.name} {QUICK[self.path.stem]}"
