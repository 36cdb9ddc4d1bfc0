# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Distil a small code model with kdtool
#
# A teacher with 135 million parameters teaches a student with two thirds of its layers, and a control learns the same text
# without the teacher. A report says whether the teacher helped. The notebook runs in Colab (first choose *Runtime → Change
# runtime type → T4 GPU*), on a CPU, and on your own Jupyter server.
#
# The settings run any recipe. Claude teaches CodeLlama-7B on a T4 with `recipes/claude-codellama-t4.yaml`, "kdtool[all]" and
# ["ANTHROPIC_API_KEY"]: `kdtool check` below shows its dollars before any are spent.
#
# Every command runs in a separate process, so no installation needs a restart of the runtime. After a disconnect run all
# cells again: finished parts are found in `FOLDER`, and an interrupted training resumes from its last checkpoint.
#
# **Unproven:** tests execute this notebook on a CPU. It has not run in Colab, on a T4, or with a store on Google Drive.

# %% Settings
SOURCE = ""  # a git address of kdtool, or a folder with a clone; "": this notebook is in a clone
FOLDER = "/content/drive/MyDrive/kdtool"  # keeps the store and the runs; "": the working folder
RECIPE = "quickstart"
SETTINGS = ["train.steps=300"]  # as for `kdtool run --set`
PACKAGES = "kdtool[quickstart]"  # "kdtool[all]" for any recipe of the project
KEYS = []  # names of secrets that the recipe needs, such as "ANTHROPIC_API_KEY": Colab's, or environment variables

# %% [markdown]
# ## Install
#
# PyTorch stays as it is, if it is recent enough. Other packages are installed for the commands below.

# %%
import os
import subprocess
import sys
from pathlib import Path


def run(*command: object) -> None:
    """Run a command and show its output here; stop the notebook if it fails."""
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}; its last lines say why")


clone = Path(SOURCE or "..").resolve()
if "://" in SOURCE:
    clone = Path("kdtool").resolve()
    if not clone.exists():
        run("git", "clone", "--depth", "1", SOURCE, clone)
sys.path.insert(0, str(clone))
from bootstrap import needed_by, third_party

needed = needed_by(PACKAGES)
run(sys.executable, "-m", "pip", "install", "--quiet", *needed, *third_party(needed))

# %% [markdown]
# ## Keep results where they survive the runtime

# %%
if FOLDER.startswith("/content/drive"):
    from google.colab import drive, userdata

    drive.mount("/content/drive")
    os.environ.update({name: userdata.get(name) for name in KEYS})
if FOLDER:
    os.environ["KDTOOL_STORE"] = str(Path(FOLDER, "store").absolute())
    Path(FOLDER).mkdir(parents=True, exist_ok=True)
    os.chdir(FOLDER)
program = Path(sys.executable).with_name("kdtool")
recipe = clone / RECIPE if "/" in RECIPE else RECIPE
options = [word for setting in SETTINGS for word in ("--set", setting)]

# %% [markdown]
# ## What will it need?
#
# Memory, disk and time before anything is downloaded or computed. On a T4, which lacks fast bfloat16, training computes in
# float16.

# %%
run(program, "check", recipe, *options)

# %% [markdown]
# ## Run
#
# The same cell resumes a run that was interrupted.

# %%
run(program, "run", recipe, *options)

# %% [markdown]
# ## Results

# %%
import kdtool
from IPython.display import HTML, display

name = max(Path("runs").iterdir(), key=lambda folder: folder.stat().st_mtime).name
results = kdtool.load(name)
display(results)
display(HTML((results.folder / "report.html").read_text(encoding="utf-8")))

# %% [markdown]
# ## Ask the student

# %%
run(program, "generate", name, "def fibonacci(n):\n", "--max-tokens", 48)
