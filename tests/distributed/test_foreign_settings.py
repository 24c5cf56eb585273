"""``flowmate worker`` takes its settings from flags, ``FLOWMATE_*`` and its file, and from nowhere else."""

import pytest

from tests.cli.conftest import twin_thread

from .cluster import Cluster, ending

ELSEWHERE = "redis://127.0.0.1:1/0"
FOREIGN = {
    **dict.fromkeys(("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL"), ELSEWHERE),
    **dict.fromkeys(("CELERY_BROKER_WRITE_URL", "RESULT_BACKEND", "CELERY_RESULT_BACKEND"), ELSEWHERE),
    **dict.fromkeys(("APP", "CELERY_APP", "CONFIG_MODULE", "CELERY_CONFIG_MODULE"), "planted"),
    **dict.fromkeys(("LOADER", "CELERY_LOADER"), "planted:Loader"),
    **dict.fromkeys(("WORKDIR", "CELERY_WORKDIR"), "/nonexistent"),
    "CELERY_WORKER_POOL": "planted:Pool",
    "KOMBU_LOG_CHANNEL": "1",
    "KOMBU_LOG_CONNECTION": "1",
}
MODULES = ("planted", "celeryconfig", "redis", "celery", "sitecustomize_planted", "tomllib", "cyclopts")


@pytest.mark.timeout(120)
def test_a_worker_ignores_foreign_variables_and_its_working_directory(redis, tmp_path):
    folder = tmp_path / "cwd"
    folder.mkdir()
    for module in MODULES:
        (folder / f"{module}.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    with twin_thread(users=3) as twin:
        cluster = Cluster(twin, redis, tmp_path / "credentials.db", rate=2000, burst=200)
        cluster.told = FOREIGN
        cluster.working_directory = folder
        with ending(cluster):
            worker = cluster.start("worker")
            ready = worker.stderr.readline()
            assert f"broker redis://127.0.0.1:{redis.port}, " in ready
            assert redis.url not in ready
            assert cluster.follow().ended(60)[0] == 0
    assert not [path.name for path in folder.iterdir() if path.suffix == ".ran"]
