"""A set that is not prepared is downloaded, as `tfds.load` does: here from a server on this machine."""

import http.server
import io
import pathlib
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from tfode_adv import data
from tfode_adv.cli import app, train
from tfode_adv.data import catalog
from tfode_adv.errors import RunError


@pytest.fixture
def server():
    """What a stand-in server was asked for; it serves the arrays of a small set, and opens no tunnel."""
    packed = io.BytesIO()
    np.savez(packed, images=np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1), labels=np.array([0, 1, 0, 1, 0, 1]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            serving.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed.getvalue())))
            self.end_headers()
            self.wfile.write(packed.getvalue())

        def do_CONNECT(self):
            serving.asked.append(self.path)
            self.send_error(403)

        def log_message(self, *unused):
            """Standard error is for the one line."""

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.asked, serving.url = [], f"http://127.0.0.1:{serving.server_port}"
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


class ServedDigits(tfds.core.GeneratorBasedBuilder):
    """Six images from the stand-in server."""

    VERSION = tfds.core.Version("1.0.0")
    url = ""

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
        )
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        with np.load(dl_manager.download(f"{self.url}/digits.npz")) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        return {
            "train": self._generate_examples(images[:4], labels[:4]),
            "test": self._generate_examples(images[4:], labels[4:]),
        }

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}


def test_a_set_that_is_not_there_is_fetched_once(tmp_path, server, monkeypatch):
    monkeypatch.setattr(ServedDigits, "url", server.url)
    with pytest.raises(RunError, match="served_digits.*not prepared.*--download"):
        data.load("served_digits", data_dir=tmp_path, download=False)
    assert server.asked == []
    images, labels = next(iter(data.load("served_digits", "test", data_dir=tmp_path)))
    assert images.shape == (2, 4, 4, 1) and sorted(labels.numpy()) == [0, 1]
    # In TFDS's own order.
    assert images.numpy()[np.argsort(labels), 0, 0, 0].tolist() == [np.float32(64 / 255), np.float32(80 / 255)]
    data.arrays("served_digits", data_dir=tmp_path)
    assert server.asked == ["/digits.npz"]


def test_the_command_as_typed_reaches_for_the_download(tmp_path, server, monkeypatch, capfd):
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # TFDS asks its own store of prepared sets first, and tries again and again, with pauses.
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "is_dataset_on_gcs", lambda *unused: False)
    monkeypatch.setattr(requests.packages.urllib3.util.retry.Retry, "sleep", lambda *unused: None)
    status = app.call(train.main, train.FLAGS, ["train", "--model=oon", "--dataset=cifar10"])
    assert status == 1
    assert any("toronto" in asked for asked in server.asked)
    assert "fetching it failed" in capfd.readouterr().err.splitlines()[-1]
    assert not list(pathlib.Path(tmp_path).glob("runs/*"))


def test_a_network_that_swallows_everything_is_one_line_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "CONNECT_SECONDS", 0.5)
    # An address of the range that is reserved for documentation: nobody answers.
    monkeypatch.setattr(catalog.urllib.request, "getproxies", lambda: {"https": "http://192.0.2.1:9"})
    began = time.monotonic()
    with pytest.raises(RunError, match="cifar100.*192.0.2.1 is out of reach"):
        data.info("cifar100", tmp_path)
    assert time.monotonic() - began < 5
