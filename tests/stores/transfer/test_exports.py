"""Exports of hand-written code: what is accepted, what is rejected, and with which error."""

import csv
import io
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.transfer.exports import Export, read_export
from flowmate_async.stores.transfer.importing import Imported, import_export
from flowmate_async.testing.samples import api_key, every_type
from flowmate_async.testing.store_writes import ORIGIN, collect, places, synced, write
from flowmate_async.values.secrets import (
    ApiKeySecret,
    ApiKeyValue,
    OAuth2Secret,
    OAuth2Value,
    Secret,
    SimpleSecret,
)

ID = "66761aedcf268b4d68470e27"
KEY = {"username": "ann", "id": ID, "type": "API_KEY", "value": {"key": "the-credential"}}


def of_json(*records: object, lines: bool = False) -> Export:
    if lines:
        return Export(b"\n".join(msgspec.json.encode(record) for record in records) + b"\n")
    return Export(msgspec.json.encode(records))


def secrets_of(export: Export, kind: str = "json") -> list[tuple[str, Secret]]:
    return [(one.username, one.secret) for one in read_export(export, kind=kind)]


class TestJson:
    @pytest.mark.parametrize("lines", [True, False])
    def test_an_array_and_an_object_a_line_are_the_same(self, *, lines: bool) -> None:
        found = secrets_of(of_json(KEY, {**KEY, "username": "bob"}, lines=lines))
        expected = ApiKeySecret(id=ID, value=ApiKeyValue(key="the-credential"))
        assert found == [("ann", expected), ("bob", expected)]

    def test_what_upstream_sends_is_taken_as_it_is(self) -> None:
        """With ``_id`` and camel case, and every type there is."""
        known = [secret for name, secret in every_type().items() if "unknown type" not in name]
        known = [msgspec.structs.replace(secret, id=f"{number:024x}") for number, secret in enumerate(known)]
        records = [{"username": "ann", **msgspec.json.decode(msgspec.json.encode(one))} for one in known]
        assert secrets_of(of_json(*records)) == [("ann", one) for one in known]

    def test_names_with_underscores_are_those_of_the_library(self) -> None:
        """Unknown fields keep their names."""
        value = {"access_token": "a", "refresh_token": "r", "my_field": 1}
        ((_, secret),) = secrets_of(of_json({**KEY, "type": "OA2_AUTHORIZATION_CODE", "value": value}))
        assert secret == OAuth2Secret(
            id=ID, value=OAuth2Value(access_token="a", refresh_token="r", extra={"my_field": 1})
        )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["json", "lines", "csv"])
def test_a_byte_order_mark_of_windows_is_skipped(encoding: str, kind: str) -> None:
    if kind == "csv":
        text = f"username,id,type,value.key\r\nann,{ID},API_KEY,the-credential\r\n"
    else:
        text = of_json(KEY, lines=kind == "lines").data.decode()
    found = secrets_of(Export(text.encode(encoding)), "csv" if kind == "csv" else "json")
    assert found == [("ann", ApiKeySecret(id=ID, value=ApiKeyValue(key="the-credential")))]


class TestCsv:
    def test_a_column_a_field(self) -> None:
        """Empty cells are ignored; a byte order mark and line breaks in cells are accepted."""
        text = (
            "\ufeffusername,id,type,name,value.username,value.passphrase,value.key\r\n"
            f'ann,{ID},SIMPLE,an app,ali,"open\r\nsesame",\r\n'
            f"bob,{ID},API_KEY,,,,k\r\n"
        )
        (ann, simple), (bob, key) = secrets_of(Export(text.encode()), "csv")
        assert (ann, bob) == ("ann", "bob")
        assert isinstance(simple, SimpleSecret)
        assert (simple.name, simple.value.username, simple.value.passphrase) == (
            "an app",
            "ali",
            "open\r\nsesame",
        )
        assert key == ApiKeySecret(id=ID, value=ApiKeyValue(key="k"))

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0*"), min_size=1))
    def test_any_credential_survives(self, credential: str) -> None:
        written = io.StringIO(newline="")
        csv.writer(written).writerows(
            [["username", "id", "type", "value.key"], ["a", ID, "API_KEY", credential]]
        )
        ((_, secret),) = secrets_of(Export(written.getvalue().encode()), "csv")
        assert secret.value.key == credential


class TestRefusals:
    @pytest.mark.parametrize(
        ("record", "said"),
        [
            ({**KEY, "usrname": "x"}, "no field 'usrname'"),
            ({**KEY, "username": ""}, "no username"),
            ({**KEY, "username": " ann"}, "surrounding blanks"),
            ({**KEY, "username": 7}, "username"),
            ({**KEY, "id": None}, "no id"),
            ({**KEY, "id": "../users"}, "id"),
            ({**KEY, "type": "APIKEY"}, "the type is none of SIMPLE"),
            ({**KEY, "value": {}}, "no value"),
            ({**KEY, "value": {"password": "the-credential"}}, "a field is missing"),
            ({**KEY, "value": {"key": ["the-credential"]}}, "of another kind"),
            ({**KEY, "value": "the-credential"}, "of another kind"),
            ({**KEY, "value": {"key": "**********tial"}}, "key is masked"),
            (["the-credential"], "not a JSON object"),
        ],
    )
    def test_a_bad_record_is_named_and_nothing_of_it_is_repeated(
        self, record: object, said: str, exposed: Callable[[BaseException], str]
    ) -> None:
        """Nor is any of it among the locals of a traceback."""
        for lines, place in ((True, "line 2"), (False, "record 2")):
            with pytest.raises(ConfigurationError, match=f"{place}.*{said}") as caught:
                read_export(of_json({**KEY, "username": "zoe"}, record, lines=lines), kind="json")
            assert "the-credential" not in exposed(caught.value)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"username,id\nann,x,the-credential\n", "line 2: it has more or fewer cells"),
            (b"username,id,type,value.key\nann\n", "line 2: it has more or fewer cells"),
            (b'username,id,type,value.key\nann,1,API_KEY,"the-credential\n', "a quote"),
            (b"username,id,type,key\nann,1,API_KEY,the-credential\n", "no field 'key'"),
            (b"username,id\n\xff", "UTF-8"),
            (b"", "no record"),
            (b"username,id\n", "no record"),
        ],
    )
    def test_what_is_no_csv_is_said(
        self, data: bytes, said: str, exposed: Callable[[BaseException], str]
    ) -> None:
        with pytest.raises(ConfigurationError, match=said) as caught:
            read_export(Export(data), kind="csv")
        assert "the-credential" not in exposed(caught.value)

    @pytest.mark.parametrize("data", [b"[1,", b"[", b"the-credential", b"[]", b"\n\n", b"\xff"])
    def test_what_is_no_json_is_said(self, data: bytes, exposed: Callable[[BaseException], str]) -> None:
        with pytest.raises(ConfigurationError, match=r"JSON|no record") as caught:
            read_export(Export(data), kind="json")
        assert "the-credential" not in exposed(caught.value)

    def test_a_credential_twice_is_refused_with_both_places(self) -> None:
        """There is no way to know which of them is right."""
        with pytest.raises(ConfigurationError, match="record 3 is of the same user and secret as record 1"):
            read_export(of_json(KEY, {**KEY, "username": "bob"}, KEY), kind="json")


class TestImport:
    pytestmark = pytest.mark.anyio

    async def test_what_the_store_has_already_is_kept(self) -> None:
        """FlowMate's own answer is newer than any export; unless it is said otherwise."""
        held = {**KEY, "id": "1" * 24}
        exported = read_export(of_json(KEY, held), kind="json")
        async with MemoryStore() as store:
            await write(store, synced("ann", api_key("1" * 24, key="newer")))
            done = await import_export(exported, store, origin=ORIGIN, at=5.0)
            assert done == Imported(users=1, written=1, kept=1)
            assert await store.get("ann", "1" * 24) == api_key("1" * 24, key="newer")
            done = await import_export(exported, store, origin=ORIGIN, at=6.0, replace=True)
            assert done == Imported(users=1, written=1, unchanged=1)
            assert (await store.get("ann", "1" * 24)).value.key == "the-credential"

    async def test_an_import_is_no_run_that_a_sync_resumes_and_proves_no_listing(self) -> None:
        """So nothing is ever removed because an export did not have it."""
        async with MemoryStore() as store:
            run = await write(store, synced("ann", api_key("other")))
            await import_export(read_export(of_json(KEY), kind="json"), store, origin=ORIGIN, at=5.0)
            assert await store.last_run(selection="") == run
            (newest,) = [await store.last_run()]
            assert newest.finished_at == 5.0
            assert (await store.missing(newest)).missing == 0
            assert await places(store) == [f"ann {ID}", "ann other"]
            assert len(await collect(store.secrets())) == 2
