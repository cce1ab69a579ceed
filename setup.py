"""Build medaug from the values of settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


class SdistWithSettings(sdist):
    """An sdist that carries settings.ini, without which its own setup.py cannot run."""

    def make_distribution(self):
        self.filelist.append("settings.ini")
        super().make_distribution()


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["medaug", "medaug.*"]),
    package_data={"medaug": ["workflow/Snakefile", "workflow/profiles/*/*", "experiments/*.yaml", "runs/*.ipynb",
                             "explore/*.js", "report/templates/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("nnunet", "dev")},
    entry_points={"console_scripts": cfg.get("console_scripts", "").split(),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    cmdclass={"sdist": SdistWithSettings},
    zip_safe=False,
)
