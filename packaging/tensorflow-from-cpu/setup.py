"""The version is that of the TensorFlow to stand for: the newest that was tried, or what TENSORFLOW_VERSION says."""

import os

import setuptools

version = os.environ.get("TENSORFLOW_VERSION", "2.21.0")
setuptools.setup(version=version, install_requires=[f"tensorflow-cpu=={version}"])
