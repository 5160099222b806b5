"""The direction of imports (pyproject.toml, [tool.importlinter]) holds."""

import subprocess
import sys
from pathlib import Path


def test_imports_point_one_way():
    lint = Path(sys.executable).parent / "lint-imports"
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([str(lint), "--no-cache"], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
