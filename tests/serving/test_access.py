import hashlib
import hmac

import pytest

from imgclassify.serving.access import Keys, KeysError, RateLimit


def line(name: str, key: str) -> str:
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# who may use it\n" + line("anna", "one") + "\n" + line("ben", "two") + "  # until May\n")
    return path


def test_each_key_has_its_name_and_others_have_none(file):
    keys = Keys(file)
    assert [keys.name_of(key) for key in ("one", "two", "", "three", "One", "one ", "anna", "ü\udcff")] == [
        "anna", "ben", *[None] * 6,
    ]  # fmt: skip


def test_a_key_is_revoked_and_another_added_without_a_restart(file):
    keys = Keys(file)
    file.write_text(line("ben", "two") + line("carla", "three"))
    assert [keys.name_of(key) for key in ("one", "two", "three")] == [None, "ben", "carla"]


def test_every_key_is_compared_in_constant_time_whichever_is_given(file, monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        "imgclassify.serving.access.hmac.compare_digest", lambda *both: compared.append(1) or real(*both)
    )
    keys = Keys(file)
    for key in ("one", "two", "neither"):
        compared.clear()
        keys.name_of(key)
        assert len(compared) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("anna plain-text-secret", "Line 1 of the file of keys is wrong"),
        (line("anna", "one") + line("anna", "two"), "Line 2 of the file"),
        (line("an na", "one"), "Line 1 of the file"),
        ("# nobody\n", "has no key"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_damaged_file_accepts_no_key_until_it_is_mended_and_shows_none(file, text, said):
    keys, good = Keys(file), file.read_text()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for _ in range(2):  # it stays so
        with pytest.raises(KeysError, match=said) as raised:
            keys.name_of("one")
        assert "secret" not in str(raised.value)
    with pytest.raises(KeysError, match=said):
        Keys(file)
    file.write_text(good)
    assert keys.name_of("one") == "anna"


def test_a_missing_file_accepts_no_key(file, tmp_path):
    keys = Keys(file)
    file.unlink()
    with pytest.raises(KeysError, match="cannot be read: No such file"):
        keys.name_of("one")
    with pytest.raises(KeysError, match="cannot be read"):
        Keys(tmp_path)


def test_a_rate_allows_a_burst_and_then_so_many_per_second_for_each_name():
    now = [0.0]
    limit = RateLimit(2.0, 4.0, clock=lambda: now[0])

    def sent(name: str) -> int:
        """How many pictures a name can send now."""
        count = 0
        while limit.seconds(name) == 0:
            limit.take(name)
            count += 1
        return count

    assert (sent("anna"), sent("anna"), sent("ben")) == (4, 0, 4)
    assert limit.seconds("anna") == 0.5
    now[0] = 1.0
    assert sent("anna") == 2
    now[0] = 100.0
    assert sent("anna") == 4
    limit.take("anna", 10)  # a form with many files goes into debt
    assert limit.seconds("anna") == 5.5
