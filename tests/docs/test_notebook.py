"""docs/cookbook/notebook.md: its cells run in a kernel, in order."""

import os

import pytest

from tests.docs.pages import fences

nbformat = pytest.importorskip("nbformat", reason="make cookbook")
nbclient = pytest.importorskip("nbclient", reason="make cookbook")
pytest.importorskip("ipykernel", reason="make cookbook")


@pytest.fixture
def environment(flowmate_sandbox, monkeypatch):
    flowmate_sandbox.world.add_user("abc123")
    secret = flowmate_sandbox.world.add_secret(
        "abc123", type="API_KEY", value={"key": "an-invented-key", "headerName": "X-Key"}
    )
    for name in [name for name in os.environ if name.startswith("FLOWMATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWMATE_BASE_URL", flowmate_sandbox.url)
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", flowmate_sandbox.admin_token)
    monkeypatch.setenv("SECRET_ID", secret.id)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_its_cells_run_in_order_and_show_no_credential(environment, tmp_path):
    cells = [fence.body for fence in fences("docs/cookbook/notebook.md") if fence.title.startswith("[")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = nbformat.writes(notebook)
    assert "1 secret" in shown
    assert "API_KEY" in shown
    assert "an-invented-key" not in shown
