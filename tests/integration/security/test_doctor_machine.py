"""`trunkline doctor` against each fault of the store, the model, the device and the compiled operations: a real Redis,
real model files."""

import tarfile

import pytest

from tests.conftest import require
from tests.integration.support import MODEL
from tests.state.conftest import local_redis

pytestmark = pytest.mark.kafka


class TestRedis:
    FLAGS = ("--state.store=redis", "--state.timeout_ms=1000")

    def test_a_good_one(self, doctor):
        with local_redis() as server:
            code, found = doctor(*self.FLAGS, f"--state.redis_url={server.url}")
        assert (code, [finding["level"] for finding in found["state store"]]) == (0, ["ok"])

    def test_one_that_forgets_sooner_than_the_audio(self, doctor):
        with local_redis() as server:
            _, found = doctor(*self.FLAGS, f"--state.redis_url={server.url}", "--state.ttl_s=3600")
        assert [finding["level"] for finding in found["state store"]] == ["ok", "warning"]

    def test_none_there(self, doctor):
        assert (
            "127.0.0.1:1" in doctor.error("state store", *self.FLAGS, "--state.redis_url=redis://127.0.0.1:1")["text"]
        )

    def test_wrong_password_and_missing_rights(self, doctor, monkeypatch):
        with local_redis({"user": "worker on >secret ~other:* +set +get +unlink +ping"}) as server:
            flags = [*self.FLAGS, f"--state.redis_url={server.url}", "--state.redis_username=worker"]
            monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "wrong")
            assert "state.redis_password" in doctor.error("state store", *flags)["remedy"]
            monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "secret")
            assert "ACL SETUSER worker ~trunkline:*" in doctor.error("state store", *flags)["remedy"]

    def test_one_that_is_full(self, doctor):
        with local_redis({"maxmemory": "1mb", "maxmemory-policy": "noeviction"}) as server:
            assert "maxmemory" in doctor.error("state store", *self.FLAGS, f"--state.redis_url={server.url}")["text"]


class TestModel:
    def test_no_file(self, doctor):
        assert "no file" in doctor.error("model", "--model.source=/nowhere/model.nemo")["text"]

    def test_a_file_that_is_no_model(self, doctor, tmp_path):
        (tmp_path / "text.nemo").write_text("text")
        assert "is no NeMo model" in doctor.error("model", f"--model.source={tmp_path / 'text.nemo'}")["text"]
        with tarfile.open(tmp_path / "other.nemo", "w") as archive:
            archive.add(tmp_path / "text.nemo", "model_weights.ckpt")
        assert "no model_config.yaml" in doctor.error("model", f"--model.source={tmp_path / 'other.nemo'}")["text"]

    def test_a_look_ahead_that_it_has_not(self, doctor):
        found = doctor.error("model", "--model.look_ahead=5")
        assert "model.look_ahead is 5, and it has 13, 6, 1, 0" in found["text"]

    def test_a_name_is_not_fetched(self, doctor):
        _, found = doctor("--model.source=someone/some-model")
        assert found["model"][0]["level"] == "skipped"

    @pytest.mark.slow
    def test_loading_it(self, doctor, tmp_path):
        _, found = doctor("--load-model", "--model.threads=1")
        assert found["model"][0]["level"] == "ok"
        assert "demo@" in found["model"][0]["text"]
        with tarfile.open(MODEL) as archive:
            archive.extractall(tmp_path / "parts", filter="data")
        (tmp_path / "parts" / "model_weights.ckpt").write_bytes(b"broken")
        with tarfile.open(tmp_path / "broken.nemo", "w") as archive:
            archive.add(tmp_path / "parts", ".")
        broken = f"--model.source={tmp_path / 'broken.nemo'}"
        assert doctor(broken)[1]["model"][0]["level"] == "ok"  # it is not looked into
        assert "could not be read as a NeMo model" in doctor.error("model", "--load-model", broken)["text"]


def test_a_device_that_is_not_here(doctor):
    import torch

    device = f"cuda:{torch.cuda.device_count()}"
    assert device in doctor.error("device", f"--model.device={device}")["text"]


class TestOperations:
    @pytest.fixture
    def native(self):
        from worker.engine import native

        native.loaded.cache_clear()
        yield native
        native.loaded.cache_clear()

    def test_compiled_ones(self, doctor, native):
        require(native.loaded() or not native.supported(), "the operations are not compiled")
        _, found = doctor("--model.device=cpu")
        assert found["operations"][0]["level"] == ("ok" if native.supported() else "skipped")

    @pytest.mark.parametrize(("content", "remedy"), [(None, "`python -P"), (b"text", "delete it, and `python -P")])
    def test_none_that_can_be_loaded(self, doctor, native, monkeypatch, tmp_path, content, remedy):
        monkeypatch.setattr(native, "supported", lambda: True)
        monkeypatch.setattr(native, "FOLDER", tmp_path)
        if content:
            native.library().write_bytes(content)
        code, found = doctor("--model.device=cpu")
        assert (code, found["operations"][0]["level"]) == (0, "warning")
        assert found["operations"][0]["remedy"].startswith(remedy)

    def test_where_there_are_none(self, doctor, native, monkeypatch):
        monkeypatch.setattr(native, "supported", lambda: False)
        said = {}
        for flag in ("--model.dtype=float32", "--model.dtype=bfloat16", "--model.engine=reference"):
            _, found = doctor("--model.device=cpu", flag)
            assert found["operations"][0]["level"] == "skipped"
            said[flag] = "on this processor" in found["operations"][0]["text"]
        assert list(said.values()) == [True, False, False]
