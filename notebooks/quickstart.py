# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Distil a small code model on a free GPU
#
# This notebook runs `recipes/quickstart.yaml` on a T4 of Google Colab: menu *Runtime*, *Change runtime type*, *T4 GPU*.
# It has been executed on a CPU, and never on Colab.
#
# Store and runs are on your Drive. If Colab disconnects, run all cells again: the run resumes.

# %%
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = os.environ.get("KDTOOL_REPOSITORY", "")  # address or folder of a clone of kdtool
SETTINGS = os.environ.get("KDTOOL_SETTINGS", "").split()  # such as train.steps=100
DRIVE = Path(os.environ.get("KDTOOL_DRIVE", "/content/drive"))
if not REPOSITORY:
    raise SystemExit("REPOSITORY is empty; expected the address of kdtool's repository; write it into this cell")


def run(*command: str | Path) -> None:
    """Run a program, show its output, and stop the notebook if it fails."""
    print("$", *command, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}")


# %% [markdown]
# ## Drive

# %%
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount(str(DRIVE))
HOME = DRIVE / "MyDrive" / "kdtool"
HOME.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Install
#
# kdtool gets a separate environment, which uses the torch that Colab has. The packages of this notebook stay as they are,
# so the runtime does not need a restart.

# %%
CLONE, ENVIRONMENT = Path("kdtool"), Path("kdtool-env").absolute()
if not CLONE.exists():
    run("git", "clone", "--quiet", "--depth", "1", REPOSITORY, CLONE)
sys.path.insert(0, str(CLONE))
import bootstrap

if shutil.which("uv") is None:
    run(sys.executable, "-m", "pip", "install", "--quiet", "uv")
run("uv", "venv", "--quiet", "--allow-existing", "--system-site-packages", "--python", sys.executable, ENVIRONMENT)
folders = bootstrap.needed_by("kdtool[quickstart]")
run("uv", "pip", "install", "--quiet", "--python", ENVIRONMENT / "bin" / "python", *folders)

# %% [markdown]
# ## Run
#
# `dtype: auto`, the default, trains in float16 on a GPU without bfloat16, such as a T4 (compute capability 7.5).

# %%
KDTOOL = ENVIRONMENT / "bin" / "kdtool"
options = ["--store", str(HOME / "store"), "--out", str(HOME / "runs")]
for setting in SETTINGS:
    options += ["--set", setting]
run(KDTOOL, "check", CLONE / "recipes" / "quickstart.yaml", *options)
run(KDTOOL, "run", CLONE / "recipes" / "quickstart.yaml", *options)

# %% [markdown]
# ## Use the student

# %%
run(KDTOOL, "show", "quickstart", "--out", str(HOME / "runs"))
run(KDTOOL, "generate", "quickstart", "def mean(numbers):", "--out", str(HOME / "runs"))
