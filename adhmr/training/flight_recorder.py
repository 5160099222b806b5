"""PyTorch's own record of the latest collectives of each process: switched on, and written down when a process hangs.

When that is, is decided in watchdog.py, and by NCCL's own timeout.
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed

BUFFER = 2000  # collectives remembered by a process


def prepare_flight_recorder(run_dir: str | Path) -> None:
    """Environment of NCCL's record and of its dump on a timeout, below run_dir/hang; to be called before the process
    group is made. What the user has set stays."""
    buffer, dump_file = "TORCH_FR_BUFFER_SIZE", "TORCH_FR_DUMP_TEMP_FILE"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9):  # later ones warn of these names
        buffer, dump_file = "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"
    folder = Path(run_dir) / "hang"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(buffer, str(BUFFER))
    os.environ.setdefault(dump_file, str(folder.resolve() / "nccl-rank-"))  # the rank is appended
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def write_collectives(path: Path) -> None:
    """The latest collectives of each backend of this process, as JSON; nothing where it has none."""
    library = torch._C._distributed_c10d
    dumps = {"nccl": "_dump_nccl_trace_json", "gloo": "_dump_fr_trace_json"}
    record = {name: json.loads(getattr(library, dump)()) for name, dump in dumps.items() if hasattr(library, dump)}
    if any(backend.get("entries") for backend in record.values()):
        path.write_text(json.dumps(record))
